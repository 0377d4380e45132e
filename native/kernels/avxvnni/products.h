// Integer products of 256-bit VNNI, which has two encodings: that of AVX-VNNI, which CPUs without AVX-512 have, and
// that of AVX-512VL, by which the same source is tested where AVX-VNNI is missing (twin.cc). `Dot` is the instruction.
#pragma once
#include "kernels/avx2/ints.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::avxvnni {
namespace {

template <class Dot>
struct Products : avx2::Ints {
  static constexpr int kRows = 5;
  static constexpr int kNibbleRows = 2;
  static constexpr bool kCentred = false;
  using W = Acc;
  using X = __m256i;
  using Codes = W;
  using Unpack = avx2::Unpack;

  static W weights(const std::byte* line) { return {half_line(line, 0), half_line(line, 1)}; }
  static void nibbles(const std::byte* line, W& first, W& second) {
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    const __m256i low = half_line(line, 0), high = half_line(line, 1);
    first = {_mm256_and_si256(low, nibble), _mm256_and_si256(high, nibble)};
    second = {_mm256_and_si256(_mm256_srli_epi16(low, 4), nibble),
              _mm256_and_si256(_mm256_srli_epi16(high, 4), nibble)};
  }
  static X spread(const std::uint8_t* x) { return _mm256_set1_epi32(four(x)); }
  static Acc dot(Acc a, X x, const W& w) {
    Dot::add(a.low, x, w.low);
    Dot::add(a.high, x, w.high);
    return a;
  }
};

}  // namespace
}  // namespace gpt2::kernels::avxvnni
