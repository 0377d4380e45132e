// The vector of AVX-512: 16 floats. What simd/ asks of a vector type is exactly what stands here.
#pragma once
#include <immintrin.h>

#include "kernels/types.h"

namespace gpt2::kernels::avx512 {
namespace {

struct Vec {
  static constexpr std::size_t kTileVectors = 4;  // 6 rows x 4 vectors of sums, 4 of W, 1 of x: 29 of 32 registers
  using F = __m512;
  using Mask = __mmask16;

  static Mask mask(std::size_t n) { return n >= kLanes ? Mask(0xffff) : static_cast<Mask>((1u << n) - 1u); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static F load(const std::uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // A line of bfloat16 pairs: the first and the second of each.
  static void load_pair(const std::byte* line, F& first, F& second) {
    const __m512i pairs = _mm512_load_si512(line);
    first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store(float* p, F v, Mask m) { _mm512_mask_storeu_ps(p, m, v); }
  // Whole numbers in [0, 255] as bytes.
  static void store_u8(std::uint8_t* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  // The sum of 32 bytes.
  static std::int32_t sum_run(const std::uint8_t* p) {
    const __m256i eights =
        _mm256_sad_epu8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_setzero_si256());
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 2);
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // a where it is larger, else b; b where either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  // a in the lanes of the mask, b elsewhere.
  static F select(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for whole n in [-126, 127].
  static F exp2_whole(F n) {
    const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_castsi512_ps(bits);
  }

 private:
  static F widen(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }
};

}  // namespace
}  // namespace gpt2::kernels::avx512
