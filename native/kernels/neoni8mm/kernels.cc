// Integer products of ARM's i8mm: unsigned times signed bytes, and for several rows 2 x 8 by 8 x 2 in one instruction.
#include "kernels/neon/ints.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::neoni8mm {
namespace {

struct Products : neon::Ints {
  static constexpr int kRows = 6;  // 3 pairs of rows x 8 pairs of outputs: 24 registers of sums, 3 of x, 2 of weights
  static constexpr int kNibbleRows = 2;
  static constexpr bool kCentred = false;
  using Unpack = neon::Unpack;

  static Acc dot(const Acc& sum, X x, const W& w) {
    return {vusdotq_s32(sum.a, x, w.a), vusdotq_s32(sum.b, x, w.b), vusdotq_s32(sum.c, x, w.c),
            vusdotq_s32(sum.d, x, w.d)};
  }
  static Acc dot(const Acc& sum, X x, const Codes& w) {
    const auto add = [x](int32x4_t s, uint8x16_t codes) {
      return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(s), x, codes));
    };
    return {add(sum.a, w.a), add(sum.b, w.b), add(sum.c, w.c), add(sum.d, w.d)};
  }

  // acc[r] += x[r] . w over all lines, for two rows or more. The words of two lines, interleaved, are pairs of outputs
  // x 8 k; a sum holds row 0 of both outputs, then row 1. Of an odd number of rows the last is multiplied twice.
  template <int R>
  static void sum_rows(const std::uint8_t* x, std::size_t ldx, const std::byte* w, std::size_t bytes, Acc (&acc)[R]) {
    constexpr int kPairs = (R + 1) / 2;
    int32x4_t sum[kPairs][8];
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 8
      for (int n = 0; n < 8; ++n) sum[p][n] = vdupq_n_s32(0);
    }
    for (std::size_t line = 0; line < bytes; line += 2 * kLine) {
      uint8x16_t rows[kPairs];
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) {
        const std::uint8_t* first = x + static_cast<std::size_t>(2 * p) * ldx + line / kTile;
        rows[p] = vcombine_u8(vld1_u8(first), vld1_u8(2 * p + 1 < R ? first + ldx : first));
      }
      const auto* words = reinterpret_cast<const std::int32_t*>(w + line);
#pragma GCC unroll 8
      for (int n = 0; n < 8; n += 2) {
        const int32x4_t low = vld1q_s32(words + 2 * n), high = vld1q_s32(words + kTile + 2 * n);
        const int8x16_t b0 = vreinterpretq_s8_s32(vzip1q_s32(low, high));
        const int8x16_t b1 = vreinterpretq_s8_s32(vzip2q_s32(low, high));
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; ++p) {
          sum[p][n] = vusmmlaq_s32(sum[p][n], rows[p], b0);
          sum[p][n + 1] = vusmmlaq_s32(sum[p][n + 1], rows[p], b1);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) {
      acc[2 * p] = row<0>(sum[p]);
      if (2 * p + 1 < R) acc[2 * p + 1] = row<1>(sum[p]);
    }
  }

 private:
  template <int kRow>
  static Acc row(const int32x4_t (&s)[8]) {
    const auto join = [](int32x4_t low, int32x4_t high) {
      const int64x2_t a = vreinterpretq_s64_s32(low), b = vreinterpretq_s64_s32(high);
      return vreinterpretq_s32_s64(kRow == 0 ? vzip1q_s64(a, b) : vzip2q_s64(a, b));
    };
    return {join(s[0], s[1]), join(s[2], s[3]), join(s[4], s[5]), join(s[6], s[7])};
  }
};

}  // namespace

const MatmulQFn kMatmulQ = simd::matmul_q<neon::Vec, Products>;

}  // namespace gpt2::kernels::neoni8mm
