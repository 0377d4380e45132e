// Integer products of AVX-VNNI: the 256-bit form that CPUs without AVX-512 have.
#include "kernels/avx2/ints.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::avxvnni {
namespace {

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
    // By name, as avx512vnni/ does and for the same reason.
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a.low) : "x"(x), "x"(w.low));
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a.high) : "x"(x), "x"(w.high));
    return a;
  }
};

}  // namespace

const MatmulQFn kMatmulQ = simd::matmul_q<avx2::Vec, Products>;

}  // namespace gpt2::kernels::avxvnni
