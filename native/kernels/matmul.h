// y = act(x . W + b), or y += x . W + b: float32 activations, float32 or bfloat16 weights, float32 accumulation.
//
// Why packed: for one row (decoding) each weight byte is read once, and four sequential streams of whole lines reach
// the memory's bandwidth; for many rows (prefill) a panel of four tiles stays in the second-level cache while a
// register tile makes arithmetic the limit. The same lines serve every instruction set (types.h).
//
//   x     [m, k]  float32, row stride ldx
//   w     packed tiles of float32 or bfloat16 (types.h), 64-byte aligned
//   bias  [n]     float32 or nullptr
//   y     [m, n]  float32, row stride ldy, overlaps nothing
//   columns [first, last) of y are computed, first a multiple of kTile; the caller splits them among threads
//   scratch: matmul_scratch(m) floats, 64-byte aligned, one per thread
//   narrow_x  [m, round_up(k, kNarrowK)]  bfloat16, row stride narrow_ldx, zeros beyond k: what a table that has
//             `narrow` (rows.h) made of x, and reads instead of x where the weights are bfloat16; unused otherwise
//
// Maths:   y[i][j] = act(bias[j] + sum_t x[i][t] w(t, j))      accumulate = false
//          y[i][j] = y[i][j] + (bias[j] + sum_t ...)           accumulate = true, no activation
// Order:   one chain of fused multiply-adds over t = 0, 1, 2 ..., whatever m, the columns, the thread and the
//          instruction set are: a row of a batch equals the row alone, and generic equals AVX-512.
// Error:   |y - exact| <= (k + 4) u (|bias| + sum_t |x w|) / (1 - (k + 4) u),  u = 2^-24, before the activation
//          (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); plus u |y_before| when accumulating.
// Narrow:  a table with `narrow` rounds the activations to bfloat16 and takes denormals as zeros. The order of its sums
//          is the same for every m and all columns, so that a row of a batch equals the row alone; but the bits are not
//          those of the other tables. Tiles (AMX) sum 32 k at a time: two chains of 16, their sum added to what the 32
//          k before gave. Pairs (AVX-512 BF16) are one chain over k = 1, 0, 3, 2, 5, 4 ... with a rounding for each.
//          |y - exact| <= 2^-8 S + (r + 4) u (1 + 2^-8) (|bias| + S) + k 2^-124 (1 + max|x| + max|w|),
//          S = sum_t |x w|, r = min(k, 16 + k / 32) for tiles and k for pairs, for |x| < 2^127.
// Truth:   generic/matmul.cc. Test: tests/kernels_test.cc.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

struct Matmul {
  const float* x;
  std::size_t ldx;
  const void* w;
  DType dtype;
  const float* bias;
  float* y;
  std::size_t ldy;
  std::size_t m, k;
  std::size_t first, last;
  Activation activation;
  bool accumulate;
  float* scratch;
  const std::uint16_t* narrow_x;
  std::size_t narrow_ldx;
};
using MatmulFn = void (*)(const Matmul&);

// The columns that are worked on together, and the k of a panel that stays in the second-level cache for many rows: 384
// x 64 float32 are 96 KiB.
inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kDepth = 384;
// Narrow rows are filled up to whole tiles of AMX.
inline constexpr std::size_t kNarrowK = 32;

// Floats of scratch for one thread: the sums of m rows over a panel, and a panel of bfloat16 widened.
inline constexpr std::size_t matmul_scratch(std::size_t m) { return (m + kDepth) * kPanel; }

}  // namespace gpt2::kernels
