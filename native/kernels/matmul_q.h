// y = act(x . W + b) with int8 or int4 weights, uint8 activations and exact integer sums.
//
// Why integers: a byte of weight costs a quarter of the traffic of float32, and the sum is exact, so that its bits
// cannot depend on the order: every instruction set, batch and thread gives the same y.
//
// A weight means scale[j] * (w8[t][j] - zero[j]); int8 stores w8, int4 stores codes c in 0..15 with
// w8 = mult * c + offset per group of `group` k and output (offset = -8 mult when it is not stored), always in
// [-128, 127]. An activation means xscale[i] * (x[i][t] - xzero[i]) (rows.h, quantize).
//
//   x      [m, kp] uint8, row stride ldx, kp = padded_k(dtype, k), zeros beyond k; xscale, xzero [m]
//   xsums  [m, kp/32] int32, row stride ldsums: sums of x over each 32 k
//   w      packed tiles of int8 or int4 (types.h), 64-byte aligned; mult, offset [n/16, kp/group, 16]
//   scale  [n], wsum [n]: sum_t w8[t][j]; zero [n] or nullptr; bias [n] or nullptr; each readable up to round_up(n, 16)
//   y      [m, n] float32, row stride ldy; columns [first, last), first a multiple of kTile
//   scratch: matmul_q_scratch(kp) bytes, 64-byte aligned, one per thread
//
// Maths:   a = sum_t (x[i][t] - xzero[i]) (w8[t][j] - zero[j]), exact in int32 for k <= kMaxQuantizedK
//          v = float(a) * (xscale[i] * scale[j]);  y = act(v + bias) or y + (v + bias)
// Error:   3 u |v| + 2 u |y| of float rounding beside the exact integer sum,  u = 2^-24.
// Truth:   generic/matmul_q.cc. Test: tests/quantized_test.cc.
#pragma once
#include "kernels/matmul.h"

namespace gpt2::kernels {

// 255 * 255 * k must stay below 2^31.
inline constexpr std::size_t kMaxQuantizedK = 32768;
// Sums of activations are kept for runs of this many k: the smallest group of int4.
inline constexpr std::size_t kSumRun = 32;

struct MatmulQ {
  const std::uint8_t* x;
  std::size_t ldx;
  const float* xscale;
  const std::int32_t* xzero;
  const std::int32_t* xsums;
  std::size_t ldsums;
  const void* w;
  DType dtype;
  const std::uint8_t* mult;
  const std::int8_t* offset;
  std::size_t group;
  const float* scale;
  const std::int32_t* wsum;
  const std::int8_t* zero;
  const float* bias;
  float* y;
  std::size_t ldy;
  std::size_t m, k;
  std::size_t first, last;
  Activation activation;
  bool accumulate;
  void* scratch;
};
using MatmulQFn = void (*)(const MatmulQ&);

// Rows of activations that a register tile has at most.
inline constexpr std::size_t kMostRowsQ = 8;

// From one row of 16-bit numbers to the next: rows that are a multiple of half a kilobyte apart are read a sixth
// slower.
inline constexpr std::size_t wide_row(std::size_t kp) { return kp + 32; }

// A panel of int4 unpacked to int8, for many rows; behind it the rows of a register tile as 16-bit numbers.
inline constexpr std::size_t matmul_q_scratch(std::size_t kp) {
  return kp * kPanel + kMostRowsQ * wide_row(kp) * sizeof(std::int16_t);
}

}  // namespace gpt2::kernels
