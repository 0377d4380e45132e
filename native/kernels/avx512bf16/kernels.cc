// AVX-512 BF16: two products of bfloat16 and their sum in one instruction, for bfloat16 weights.
#include "kernels/avx512/narrow.h"
#include "kernels/avx512/vec.h"
#include "kernels/simd/matmul_pairs.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx512bf16 {
namespace {

struct Pairs {
  using Acc = __m512;
  using W = __m512i;
  using X = __m512i;

  static Acc zero() { return _mm512_setzero_ps(); }
  static W weights(const std::byte* line) { return _mm512_load_si512(line); }
  static X spread(const std::uint16_t* x) {
    std::int32_t two;
    std::memcpy(&two, x, sizeof two);
    return _mm512_set1_epi32(two);
  }
  // By name, as avx512vnni's product and for its reason.
  static Acc dot(Acc a, X x, W w) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
  }
  static void store(float* p, Acc a) { _mm512_storeu_ps(p, a); }
};

void matmul(const Matmul& a) {
  if (a.dtype != DType::kBF16) return avx512::kTable.matmul(a);
  simd::matmul_pairs<avx512::Vec, Pairs>(a);
}

}  // namespace

const MatmulFn kMatmul = matmul;
const NarrowFn kNarrow = avx512::narrow;

}  // namespace gpt2::kernels::avx512bf16
