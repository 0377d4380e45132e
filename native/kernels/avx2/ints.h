// What the two integer kernels of 256-bit registers share: 16 int32 in two registers, and int4 unpacked to int8.
#pragma once
#include <immintrin.h>

#include "kernels/avx2/vec.h"

namespace gpt2::kernels::avx2 {
namespace {

struct Ints {
  struct Acc {
    __m256i low, high;
  };

  static Acc zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Acc set(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Acc load(const std::int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  static Acc load_i8(const std::int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
  }
  static Acc load_u8(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  }
  static Acc add(Acc a, Acc b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  static Acc sub(Acc a, Acc b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
  static Acc mul(Acc a, Acc b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
  static Vec::F to_float(Acc a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

  // Half a line: 32 bytes.
  static __m256i half_line(const std::byte* line, int half) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + half);
  }
  static std::int32_t four(const std::uint8_t* x) {
    std::int32_t bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return bytes;
  }
};

// A line of codes as two lines of mult * code + offset. A product of two numbers below 16 fits its byte.
struct Unpack {
  __m256i mult[2], offset[2];

  Unpack(const std::uint8_t* m, const std::int8_t* o) {
    const Ints::Acc mults = Ints::load_u8(m);
    const Ints::Acc offsets = o == nullptr ? Ints::mul(mults, Ints::set(-8)) : Ints::load_i8(o);
    const __m256i words = _mm256_set1_epi32(0x00010001),
                  first = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4, 4,
                                           8, 8, 8, 8, 12, 12, 12, 12);
    mult[0] = _mm256_mullo_epi32(mults.low, words);
    mult[1] = _mm256_mullo_epi32(mults.high, words);
    offset[0] = _mm256_shuffle_epi8(offsets.low, first);
    offset[1] = _mm256_shuffle_epi8(offsets.high, first);
  }

  void operator()(const std::byte* line, std::byte* out) const {
    for (int half = 0; half < 2; ++half) {
      const __m256i codes = Ints::half_line(line, half);
      auto* low = reinterpret_cast<__m256i*>(out) + half;
      _mm256_store_si256(low, weights(codes, half));
      _mm256_store_si256(low + 2, weights(_mm256_srli_epi16(codes, 4), half));
    }
  }

 private:
  __m256i weights(__m256i codes, int half) const {
    const __m256i nibble = _mm256_set1_epi16(0x000f);
    const __m256i even = _mm256_mullo_epi16(_mm256_and_si256(codes, nibble), mult[half]);
    const __m256i odd = _mm256_mullo_epi16(_mm256_and_si256(_mm256_srli_epi16(codes, 8), nibble), mult[half]);
    return _mm256_add_epi8(_mm256_or_si256(even, _mm256_slli_epi16(odd, 8)), offset[half]);
  }
};

}  // namespace
}  // namespace gpt2::kernels::avx2
