// Activations rounded to bfloat16, for the two sets that multiply bfloat16 by bfloat16.
#pragma once
#include "kernels/avx512/vec.h"

namespace gpt2::kernels::avx512 {
namespace {

// rows.h: narrow. The rounding is that of narrow_bf16, by integers, so that it does not hang on the state of the unit.
inline void narrow(const float* x, std::size_t n, std::size_t padded, std::uint16_t* out) {
  const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(0x7fff);
  for (std::size_t j = 0; j < padded; j += kLanes) {
    const __mmask16 m = j < n ? Vec::mask(n - j) : __mmask16(0);
    const __m512i bits = _mm512_maskz_loadu_epi32(m, x + j), upper = _mm512_srli_epi32(bits, 16);
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(half, _mm512_and_si512(upper, one))), 16);
    const __mmask16 nan =
        _mm512_cmpgt_epi32_mask(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)), _mm512_set1_epi32(0x7f800000));
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j), _mm512_cvtepi32_epi16(kept));
  }
}

}  // namespace
}  // namespace gpt2::kernels::avx512
