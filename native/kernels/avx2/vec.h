// The vector of AVX2 with FMA: 8 floats. A mask is a vector of all-ones lanes.
#pragma once
#include <immintrin.h>

#include "kernels/types.h"

namespace gpt2::kernels::avx2 {
namespace {

struct Vec {
  static constexpr std::size_t kWidth = 8;
  static constexpr std::size_t kTileVectors = 2;  // 6 rows x 2 vectors of sums, 2 of W, 1 of x: 15 of 16 registers
  using F = __m256;
  using Mask = __m256i;

  static Mask mask(std::size_t n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < kWidth ? n : kWidth)), lanes);
  }
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static F load(const std::uint16_t* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  // There is no masked load of 16-bit lanes; the lanes outside must not be touched, so they are copied one by one.
  static F load(const std::uint16_t* p, Mask m) {
    alignas(16) std::uint16_t lanes[kWidth] = {};
    const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(m));
    for (std::size_t i = 0; i < kWidth; ++i) {
      if (bits >> i & 1) lanes[i] = p[i];
    }
    return load(lanes);
  }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store(float* p, F v, Mask m) { _mm256_maskstore_ps(p, m, v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F select(Mask m, F a, F b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F exp2_whole(F n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_castsi256_ps(bits);
  }

 private:
  static F widen(__m128i half) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)); }
};

}  // namespace
}  // namespace gpt2::kernels::avx2
