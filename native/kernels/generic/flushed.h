// Multiply-adds that read and write denormals as zeros, as the units for bfloat16 do: for their plain forms, in tests.
#pragma once
#include <cmath>
#include <limits>
#include <utility>

namespace gpt2::kernels::generic {

// x with denormals as zeros.
inline float flushed(float x) { return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }

// a * b + c rounded once, denormals read and written as zeros. A result is tiny if it is so with an exponent without
// limit: then the smallest normal number may come of one that rounds up to it only among denormals.
inline float flushed_fma(float a, float b, float c) {
  a = flushed(a), b = flushed(b), c = flushed(c);
  if (std::fabs(a) > std::fabs(b)) std::swap(a, b);  // the smaller can be scaled without overflow
  const float r = std::fma(a, b, c);
  constexpr float kMin = std::numeric_limits<float>::min(), kScale = 0x1p60f;
  if (std::fabs(r) == kMin && std::fabs(std::fma(a * kScale, b, c * kScale)) < kMin * kScale) {
    return std::copysign(0.0f, r);
  }
  return flushed(r);
}

}  // namespace gpt2::kernels::generic
