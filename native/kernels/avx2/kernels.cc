// The templates of simd/ with two registers of 8 floats, and integer products without VNNI.
#include "kernels/simd/kernels.h"

#include "kernels/avx2/ints.h"
#include "kernels/avx2/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx2 {
namespace {

// Products of 16-bit pairs: bytes 0 and 2 of each four, then bytes 1 and 3. The products of bytes (vpmaddubsw) would be
// quicker and saturate.
struct Products : Ints {
  static constexpr int kRows = 3;
  static constexpr int kNibbleRows = 1;
  static constexpr bool kCentred = false;
  struct W {
    Acc even, odd;
  };
  struct X {
    __m256i even, odd;
  };
  using Codes = W;
  using Unpack = avx2::Unpack;

  static W weights(const std::byte* line) {
    const __m256i low = half_line(line, 0), high = half_line(line, 1);
    return {{_mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8)},
            {_mm256_srai_epi16(low, 8), _mm256_srai_epi16(high, 8)}};
  }
  static void nibbles(const std::byte* line, W& first, W& second) {
    const __m256i nibble = _mm256_set1_epi16(0x000f);
    const auto cut = [&](__m256i half, int shift) { return _mm256_and_si256(_mm256_srli_epi16(half, shift), nibble); };
    const __m256i low = half_line(line, 0), high = half_line(line, 1);
    first = {{cut(low, 0), cut(high, 0)}, {cut(low, 8), cut(high, 8)}};
    second = {{cut(low, 4), cut(high, 4)}, {cut(low, 12), cut(high, 12)}};
  }
  static X spread(const std::uint8_t* x) {
    const __m256i all = _mm256_set1_epi32(four(x)), byte = _mm256_set1_epi16(0x00ff);
    return {_mm256_and_si256(all, byte), _mm256_srli_epi16(all, 8)};
  }
  static Acc dot(Acc a, const X& x, const W& w) {
    const auto half = [&](__m256i sum, __m256i even, __m256i odd) {
      return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(x.even, even), _mm256_madd_epi16(x.odd, odd)));
    };
    return {half(a.low, w.even.low, w.odd.low), half(a.high, w.even.high, w.odd.high)};
  }
};

}  // namespace

const Kernels kTable = simd::table<Vec, Products>();

}  // namespace gpt2::kernels::avx2
