// exp(z) for z <= 0 in float32, written so that compilers turn a loop over it into vector code.
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

namespace gpt2::sampling {

inline float exp_nonpositive(float z) {
  constexpr float kLowest = -87.0f;      // 2^n stays a normal float down to here
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // 9 significant bits, so n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const float clamped = z > kLowest ? z : kLowest;
  const float shifted = clamped * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound) + 127;
  const float power = std::bit_cast<float>(exponent << 23);
  return z >= kLowest ? p * power : 0.0f;
}

}  // namespace gpt2::sampling
