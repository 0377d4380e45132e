// The templates of simd/ with registers of 16 floats, and integer products without VNNI.
#include "kernels/simd/kernels.h"

#include "kernels/avx512/ints.h"
#include "kernels/avx512/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx512 {
namespace {

// Products of 16-bit pairs: bytes 0 and 2 of each four, then bytes 1 and 3. The products of bytes (vpmaddubsw) would be
// quicker and saturate.
struct Products : Ints {
  static constexpr int kRows = 4;
  static constexpr int kNibbleRows = 1;
  static constexpr bool kCentred = false;
  struct W {
    __m512i even, odd;
  };
  using X = W;
  using Codes = W;
  using Unpack = avx512::Unpack;

  static W weights(const std::byte* line) {
    const __m512i all = _mm512_load_si512(line);
    return {_mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), _mm512_srai_epi16(all, 8)};
  }
  static void nibbles(const std::byte* line, W& first, W& second) {
    const __m512i nibble = _mm512_set1_epi16(0x000f), all = _mm512_load_si512(line);
    first = {_mm512_and_si512(all, nibble), _mm512_and_si512(_mm512_srli_epi16(all, 8), nibble)};
    second = {_mm512_and_si512(_mm512_srli_epi16(all, 4), nibble), _mm512_srli_epi16(all, 12)};
  }
  static X spread(const std::uint8_t* x) {
    const __m512i all = _mm512_set1_epi32(four(x));
    return {_mm512_and_si512(all, _mm512_set1_epi16(0x00ff)), _mm512_srli_epi16(all, 8)};
  }
  static Acc dot(Acc a, const X& x, const W& w) {
    return add(a, add(_mm512_madd_epi16(x.even, w.even), _mm512_madd_epi16(x.odd, w.odd)));
  }
};

}  // namespace

const Kernels kTable = simd::table<Vec, Products>();

}  // namespace gpt2::kernels::avx512
