// How a sum or a maximum of floats is ordered on every instruction set: kLanes partial results, then a fixed tree.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels::generic {

// Partial sums: value j goes to lane j mod kLanes, in the order of j.
struct Lanes {
  float lane[kLanes] = {};

  // (0 + 8) + (4 + 12) ...
  float total() const {
    float v[kLanes];
    std::memcpy(v, lane, sizeof v);
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) v[i] += v[i + half];
    }
    return v[0];
  }
};

// exp(x) and the activations, as simd/math.h computes them.
float exp(float x);
float activation(Activation a, float x);

}  // namespace gpt2::kernels::generic
