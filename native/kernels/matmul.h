// y = act(x . W + b), or y += x . W + b: float32 activations, float32 or bfloat16 weights, float32 accumulation.
//
// Why two layouts: GPT-2's Conv1D weights lie as [k, n] (input first), the embedding that is also the head as [n, k].
// Both are used as they lie in the mapped file; nothing is repacked at load, so a model is ready when it is mapped. For
// one row (decoding) each weight byte is read once and memory bandwidth is the limit; for many rows (prefill) panels of
// W are copied into `scratch` and a register tile makes arithmetic the limit.
//
//   x     [m, k]  float32, row stride ldx
//   w     kn: [k, n] row stride ldw        nk: [n, k] row stride ldw          (strides in elements)
//   bias  [n]     float32 or nullptr
//   y     [m, n]  float32, row stride ldy, overlaps nothing
//   columns [first, last) of y are computed; the caller splits them among threads
//   scratch: matmul_scratch(m) floats, 64-byte aligned, one per thread (kn only)
//
// Maths:   y[i][j] = act(bias[j] + sum_t x[i][t] w(t, j))      accumulate = false
//          y[i][j] = y[i][j] + (bias[j] + sum_t ...)           accumulate = true, no activation
// Order:   kn sums over t = 0, 1, 2 ... in one chain; nk keeps one chain per vector lane (t mod width) and adds the
// lanes in a
//          fixed tree. Neither depends on m, on the columns asked for, or on the thread: a row of a batch equals the
//          row alone.
// Error:   |y - exact| <= (k + 4) u (|bias| + sum_t |x w|) / (1 - (k + 4) u),  u = 2^-24, before the activation
//          (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); plus u |y_before| when accumulating.
// Truth:   generic/kernels.cc. Test: tests/kernels_test.cc.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

struct Matmul {
  const float* x;
  std::size_t ldx;
  const void* w;
  DType dtype;
  std::size_t ldw;
  const float* bias;
  float* y;
  std::size_t ldy;
  std::size_t m, k;
  std::size_t first, last;
  Activation activation;
  bool accumulate;
  float* scratch;
};
using MatmulFn = void (*)(const Matmul&);

// The widest panel of columns that a kernel keeps in registers, and the rows of W that it copies at a time: 384 x 64
// float32 are 96 KiB, which stays in a second-level cache beside the strip of x.
inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kDepth = 384;

// Floats of scratch for one thread: a panel of W and the sums of m rows, or the sums of a few rows over many columns.
inline constexpr std::size_t matmul_scratch(std::size_t m) { return kDepth * kPanel + m * kPanel; }

}  // namespace gpt2::kernels
