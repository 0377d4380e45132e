// exp(z) for z <= 0 in float32, for one number or for four at a time.
//
// Why: a softmax over V = 50,257 logits calls it V times per token; std::exp would be most of the sampler's time, and
// its last bit differs between C libraries. This one is plain IEEE arithmetic: the same bits on every machine.
//
// Method:  z = n ln 2 + r with |r| <= ln(2) / 2, then the Taylor series of exp(r) to r^7 (the rest is < 6e-9, a tenth
//          of the rounding), then the exponent n is added as bits.
// Error:   |result - exp(z)| <= 2^-22 exp(z) for z in [-87, 0]; 0 below -87 (the true value is < 1.7e-38); exp(0) is
//          exactly 1. Test: tests/sampling_test.cc.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace gpt2::sampling {

// Four lanes are a register of every x86-64 (SSE2) and every 64-bit ARM. The extension is common to GCC and clang; the
// lanes are written out because GCC does not find them in a loop with a comparison.
using Floats4 [[gnu::vector_size(16)]] = float;
using Ints4 [[gnu::vector_size(16)]] = std::int32_t;
using Doubles2 [[gnu::vector_size(16)]] = double;

inline Floats4 load4(const float* x) {
  Floats4 v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

// The first and the last two lanes, exactly.
inline Doubles2 low2(Floats4 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1), Doubles2); }
inline Doubles2 high2(Floats4 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 2, 3), Doubles2); }

// F is float with I = std::int32_t, or Floats4 with I = Ints4: the same operations, so the same bits.
template <typename F, typename I>
inline F exp_nonpositive_of(F z) {
  constexpr F kZero{};
  const F lowest = kZero + -87.0f;      // 2^n stays a normal float down to here
  const F round = kZero + 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // 9 significant bits, so n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const F clamped = z > lowest ? z : lowest;
  const F shifted = clamped * kLog2e + round;
  const F n = shifted - round;
  const F r = (clamped - n * kLn2High) - n * kLn2Low;
  F p = kZero + 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I exponent = std::bit_cast<I>(shifted) - std::bit_cast<I>(round) + 127;
  return z >= lowest ? p * std::bit_cast<F>(exponent << 23) : kZero;
}

inline float exp_nonpositive(float z) { return exp_nonpositive_of<float, std::int32_t>(z); }
inline Floats4 exp_nonpositive(Floats4 z) { return exp_nonpositive_of<Floats4, Ints4>(z); }

}  // namespace gpt2::sampling
