// Vector mathematics shared by the instruction sets: exp, sums over lanes, activations.
//
// Everything here is a template over the vector type, so that each instruction set gets its own copy; ordinary inline
// functions (and the standard library's) would be merged by the linker, perhaps with instructions that this CPU lacks.
#pragma once
#include <cmath>

#include "kernels/types.h"

namespace gpt2::kernels::simd {

// exp(x). Cody-Waite: x = n ln 2 + r, |r| <= 0.35; a Taylor polynomial of degree 7 in r (remainder 5e-9), times 2^n in
// two factors so that the result may be subnormal or reach the largest float. Within 2 ulp; NaN stays NaN; inf
// above 88.73, 0 below -104.
template <class V>
inline typename V::F exp(typename V::F x) {
  using F = typename V::F;
  const F clamped = V::min(V::set(89.0f), V::max(V::set(-104.0f), x));
  const F n = V::round(V::mul(clamped, V::set(1.44269504f)));
  F r = V::fma(n, V::set(-0.693145752f), clamped);  // the first 15 bits of ln 2: n * them is exact
  r = V::fma(n, V::set(-1.42860677e-6f), r);        // the rest of ln 2
  F p = V::set(1.98412698e-4f);                     // 1/7!
  p = V::fma(p, r, V::set(1.38888889e-3f));
  p = V::fma(p, r, V::set(8.33333333e-3f));
  p = V::fma(p, r, V::set(4.16666667e-2f));
  p = V::fma(p, r, V::set(1.66666667e-1f));
  p = V::fma(p, r, V::set(0.5f));
  p = V::fma(p, r, V::set(1.0f));
  p = V::fma(p, r, V::set(1.0f));
  const F half = V::round(V::mul(n, V::set(0.5f)));
  return V::mul(V::mul(p, V::exp2_whole(half)), V::exp2_whole(V::sub(n, half)));
}

// The sum of the lanes, by halves: (0 + 8) + (4 + 12) ... the same tree always.
template <class V>
inline float sum_lanes(typename V::F v) {
  alignas(64) float lanes[kLanes];
  V::store(lanes, v);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <class V>
inline float max_lanes(typename V::F v) {
  alignas(64) float lanes[kLanes];
  V::store(lanes, v);
  float top = lanes[0];
  for (std::size_t i = 1; i < kLanes; ++i) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

// x / (1 + exp(-z))
template <class V>
inline typename V::F gate(typename V::F x, typename V::F z) {
  return V::div(x, V::add(V::set(1.0f), exp<V>(V::sub(V::zero(), z))));
}

template <class V>
inline typename V::F activation(Activation a, typename V::F x) {
  using F = typename V::F;
  switch (a) {
    case Activation::kGeluTanh: {
      // 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
      const F cube = V::mul(V::mul(x, x), x);
      const F u2 = V::mul(V::set(2.0f * 0.7978845608028654f), V::fma(V::set(0.044715f), cube, x));
      return gate<V>(x, u2);
    }
    case Activation::kRelu: return V::max(V::zero(), x);  // NaN stays NaN: the second operand wins
    case Activation::kSilu: return gate<V>(x, x);
    case Activation::kQuickGelu: return gate<V>(x, V::mul(V::set(1.702f), x));
    default: return x;
  }
}

// Whether activation() computes it; the others are done lane by lane.
constexpr bool vectorised(Activation a) { return a != Activation::kTanh && a != Activation::kGeluErf; }

// erf and tanh forms are rare in checkpoints; the C library's functions are exact enough and one lane at a time.
template <class V>
inline void activate_by_lane(Activation a, float* y, std::size_t n) {
  for (std::size_t j = 0; j < n; ++j) {
    y[j] = a == Activation::kTanh ? ::tanhf(y[j]) : 0.5f * y[j] * (1.0f + ::erff(y[j] * 0.7071067811865476f));
  }
}

template <class V>
void activate(Activation a, float* y, std::size_t n) {
  if (a == Activation::kNone) return;
  if (!vectorised(a)) return activate_by_lane<V>(a, y, n);
  std::size_t j = 0;
  for (; j + kLanes <= n; j += kLanes) V::store(y + j, activation<V>(a, V::load(y + j)));
  if (j < n) {
    const typename V::Mask m = V::mask(n - j);
    V::store(y + j, activation<V>(a, V::load(y + j, m)), m);
  }
}

}  // namespace gpt2::kernels::simd
