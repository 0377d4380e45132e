// The vector of AVX2 with FMA: 16 floats in two registers. A mask is a pair of vectors of all-ones lanes.
#pragma once
#include <immintrin.h>

#include "kernels/types.h"

namespace gpt2::kernels::avx2 {
namespace {

struct Vec {
  static constexpr std::size_t kTileVectors = 1;  // 6 rows x 2 registers of sums, 2 of W, 1 of x: 15 of 16 registers
  struct F {
    __m256 low, high;
  };
  struct Mask {
    __m256i low, high;
  };

  static Mask mask(std::size_t n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i count = _mm256_set1_epi32(static_cast<int>(n < kLanes ? n : kLanes));
    return {_mm256_cmpgt_epi32(count, lanes), _mm256_cmpgt_epi32(count, _mm256_add_epi32(lanes, _mm256_set1_epi32(8)))};
  }
  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load(const float* p, Mask m) { return {_mm256_maskload_ps(p, m.low), _mm256_maskload_ps(p + 8, m.high)}; }
  static F load(const std::uint16_t* p) { return {widen(half(p)), widen(half(p + 8))}; }
  static F load(const std::int8_t* p) {
    const __m128i bytes = half(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  // A line of bfloat16 pairs: the first and the second of each.
  static void load_pair(const std::byte* line, F& first, F& second) {
    const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(line));
    const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(line + 32));
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    first = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
    second = {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
  }
  static void store(float* p, F v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static void store(float* p, F v, Mask m) {
    _mm256_maskstore_ps(p, m.low, v.low);
    _mm256_maskstore_ps(p + 8, m.high, v.high);
  }
  // Whole numbers in [0, 255] as bytes.
  static void store_u8(std::uint8_t* p, F v) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  // The sum of 32 bytes.
  static std::int32_t sum_run(const std::uint8_t* p) {
    const __m256i eights =
        _mm256_sad_epu8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_setzero_si256());
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 2);
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static F select(Mask m, F a, F b) {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(m.low)),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(m.high))};
  }
  static F round(F a) {
    return {_mm256_round_ps(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static F exp2_whole(F n) { return {exp2_half(n.low), exp2_half(n.high)}; }

 private:
  static __m128i half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static __m256 widen(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }
  static __m256 exp2_half(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace
}  // namespace gpt2::kernels::avx2
