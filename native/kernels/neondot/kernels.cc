// Integer products of ARMv8.2's dot product: four products and their sum in one instruction, both signed or both not.
#include "kernels/neon/ints.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::neondot {
namespace {

struct Products : neon::Ints {
  static constexpr int kRows = 5;  // 20 registers of sums, 4 of the weights' own sums, 4 of weights, 1 of x
  static constexpr int kNibbleRows = 2;
  static constexpr bool kCentred = true;
  using Unpack = neon::Unpack;

  static Acc count(const Acc& sum, const W& w) { return products(sum, vdupq_n_s8(1), w); }
  static Acc dot(const Acc& sum, X x, const W& w) { return products(sum, centred(x), w); }
  static Acc dot(const Acc& sum, X x, const Codes& w) {
    const auto add = [x](int32x4_t s, uint8x16_t codes) {
      return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(s), x, codes));
    };
    return {add(sum.a, w.a), add(sum.b, w.b), add(sum.c, w.c), add(sum.d, w.d)};
  }

 private:
  static Acc products(const Acc& sum, int8x16_t x, const W& w) {
    return {vdotq_s32(sum.a, x, w.a), vdotq_s32(sum.b, x, w.b), vdotq_s32(sum.c, x, w.c), vdotq_s32(sum.d, x, w.d)};
  }
};

}  // namespace

const MatmulQFn kMatmulQ = simd::matmul_q<neon::Vec, Products>;

}  // namespace gpt2::kernels::neondot
