// The kernels of rows.h as plain loops.
#include "kernels/rows.h"

#include <cmath>

#include "kernels/generic/kernels.h"
#include "kernels/generic/lanes.h"

namespace gpt2::kernels::generic {

// The polynomial and its constants are argued in simd/math.h; the fused operations are the same, so the bits are.
float exp(float x) {
  float clamped = x > -104.0f ? x : -104.0f;
  if (x != x) clamped = x;
  clamped = 89.0f < clamped ? 89.0f : clamped;
  const float n = std::nearbyint(clamped * 1.44269504f);
  float r = std::fma(n, -0.693145752f, clamped);
  r = std::fma(n, -1.42860677e-6f, r);
  float p = 1.98412698e-4f;
  for (const float c : {1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 1.66666667e-1f, 0.5f, 1.0f, 1.0f}) {
    p = std::fma(p, r, c);
  }
  if (n != n) return n;
  const float half = std::nearbyint(n * 0.5f);
  return p * std::ldexp(1.0f, static_cast<int>(half)) * std::ldexp(1.0f, static_cast<int>(n - half));
}

float activation(Activation a, float x) {
  switch (a) {
    case Activation::kNone: return x;
    case Activation::kGeluTanh: {  // Hendrycks & Gimpel 2016, arXiv:1606.08415, the tanh form of GPT-2:
      // 0.5 x (1 + tanh u) = x / (1 + exp(-2u))
      const float cube = x * x * x;
      return x / (1.0f + exp(0.0f - 2.0f * 0.7978845608028654f * std::fma(0.044715f, cube, x)));
    }
    case Activation::kGeluErf: return 0.5f * x * (1.0f + std::erf(x * 0.7071067811865476f));
    case Activation::kRelu: return x > 0.0f ? x : (x == x ? 0.0f : x);
    case Activation::kSilu: return x / (1.0f + exp(0.0f - x));
    case Activation::kQuickGelu: return x / (1.0f + exp(0.0f - 1.702f * x));
    case Activation::kTanh: return std::tanh(x);
  }
  return x;
}

void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, float* y, std::size_t n) {
  Lanes sum, squares;
  for (std::size_t j = 0; j < n; ++j) sum.lane[j % kLanes] += x[j];
  const float mean = sum.total() / static_cast<float>(n);
  for (std::size_t j = 0; j < n; ++j) {
    float& lane = squares.lane[j % kLanes];
    lane = std::fma(x[j] - mean, x[j] - mean, lane);
  }
  const float inverse = 1.0f / std::sqrt(squares.total() / static_cast<float>(n) + epsilon);
  for (std::size_t j = 0; j < n; ++j) y[j] = std::fma((x[j] - mean) * inverse, gain[j], bias[j]);
}

void activate(Activation a, float* y, std::size_t n) {
  for (std::size_t j = 0; j < n; ++j) y[j] = activation(a, y[j]);
}

Quantized quantize(const float* x, std::size_t n, std::size_t padded, std::uint8_t* q, std::int32_t* sums) {
  float low = 0.0f, high = 0.0f, odd = 0.0f;
  for (std::size_t j = 0; j < n; ++j) {
    low = x[j] < low ? x[j] : low;
    high = x[j] > high ? x[j] : high;
    odd += x[j] - x[j];
  }
  const Quantized out = quantized_range(low, high, odd);
  float inverse = out.scale > 0.0f ? 1.0f / out.scale : 0.0f;
  if (!(inverse <= 3.402823466e38f)) inverse = 0.0f;
  for (std::size_t j = 0; j < padded; ++j) {
    float v = 0.0f;
    if (j < n && odd == 0.0f) {
      v = std::nearbyint(x[j] * inverse) + static_cast<float>(out.zero);
      v = v > 0.0f ? v : 0.0f;
      v = v < 255.0f ? v : 255.0f;
    }
    q[j] = static_cast<std::uint8_t>(v);
  }
  for (std::size_t g = 0; g < padded / kSumRun; ++g) {
    sums[g] = 0;
    for (std::size_t j = 0; j < kSumRun; ++j) sums[g] += q[g * kSumRun + j];
  }
  return out;
}

}  // namespace gpt2::kernels::generic
