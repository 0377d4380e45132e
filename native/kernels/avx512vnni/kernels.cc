// Integer products of AVX-512 VNNI: four products of bytes and their sum in one instruction.
#include "kernels/avx512/ints.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx512vnni {
namespace {

struct Products : avx512::Ints {
  static constexpr int kRows = 6;  // 24 registers of sums, 4 of weights, 1 of x
  static constexpr int kNibbleRows = 3;
  static constexpr bool kCentred = false;
  using W = __m512i;
  using X = __m512i;
  using Codes = W;
  using Unpack = avx512::Unpack;

  static W weights(const std::byte* line) { return _mm512_load_si512(line); }
  static void nibbles(const std::byte* line, W& first, W& second) {
    const __m512i nibble = _mm512_set1_epi8(0x0f), all = _mm512_load_si512(line);
    first = _mm512_and_si512(all, nibble);
    second = _mm512_and_si512(_mm512_srli_epi16(all, 4), nibble);
  }
  static X spread(const std::uint8_t* x) { return _mm512_set1_epi32(four(x)); }
  // The instruction by name: through the intrinsic GCC 12 copies each sum to another register and back, and takes more
  // than twice the time.
  static Acc dot(Acc a, X x, W w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
  }
};

}  // namespace

const MatmulQFn kMatmulQ = simd::matmul_q<avx512::Vec, Products>;

}  // namespace gpt2::kernels::avx512vnni
