// What the two integer kernels of 512-bit registers share: 16 int32 in a register, and int4 unpacked to int8.
#pragma once
#include <immintrin.h>

#include "kernels/avx512/vec.h"

namespace gpt2::kernels::avx512 {
namespace {

struct Ints {
  using Acc = __m512i;

  static Acc zero() { return _mm512_setzero_si512(); }
  static Acc set(std::int32_t x) { return _mm512_set1_epi32(x); }
  static Acc load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static Acc load_i8(const std::int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Acc load_u8(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
  static Acc sub(Acc a, Acc b) { return _mm512_sub_epi32(a, b); }
  static Acc mul(Acc a, Acc b) { return _mm512_mullo_epi32(a, b); }
  static Vec::F to_float(Acc a) { return _mm512_cvtepi32_ps(a); }

  static std::int32_t four(const std::uint8_t* x) {
    std::int32_t bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return bytes;
  }
};

// A line of codes as two lines of mult * code + offset. A product of two numbers below 16 fits its byte.
struct Unpack {
  __m512i mult, offset;

  Unpack(const std::uint8_t* m, const std::int8_t* o) {
    const __m512i mults = Ints::load_u8(m);
    const __m512i offsets = o == nullptr ? Ints::mul(mults, Ints::set(-8)) : Ints::load_i8(o);
    mult = _mm512_mullo_epi32(mults, _mm512_set1_epi32(0x00010001));
    offset = _mm512_mullo_epi32(_mm512_and_si512(offsets, _mm512_set1_epi32(0xff)), _mm512_set1_epi32(0x01010101));
  }

  void operator()(const std::byte* line, std::byte* out) const {
    const __m512i codes = _mm512_load_si512(line);
    _mm512_store_si512(out, weights(codes));
    _mm512_store_si512(out + kLine, weights(_mm512_srli_epi16(codes, 4)));
  }

 private:
  __m512i weights(__m512i codes) const {
    const __m512i nibble = _mm512_set1_epi16(0x000f);
    const __m512i even = _mm512_mullo_epi16(_mm512_and_si512(codes, nibble), mult);
    const __m512i odd = _mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(codes, 8), nibble), mult);
    return _mm512_add_epi8(_mm512_or_si512(even, _mm512_slli_epi16(odd, 8)), offset);
  }
};

}  // namespace
}  // namespace gpt2::kernels::avx512
