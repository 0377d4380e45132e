// The kernels that work on one row at a time: LayerNorm, activation, and the quantisation of activations.
//
// Each is a pure function of its row, so batches and threads cannot change a bit of it; float sums run over kLanes
// lanes and a fixed tree, so instruction sets cannot either.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

// y = (x - mean) / sqrt(var + epsilon) * gain + bias over n values (Ba et al. 2016, arXiv:1607.06450); the variance is
// the biased one, from the centred values. Error: |y - exact| <= (n + 8) u (|x - mean| + mean|x|) / sigma * |gain| +
// u |y|, for finite x.
using LayerNormFn = void (*)(const float* x, const float* gain, const float* bias, float epsilon, float* y,
                             std::size_t n);

// y[j] = activation(y[j]), in place. exp is within 2 ulp; erf and tanh are the C library's.
using ActivateFn = void (*)(Activation, float* y, std::size_t n);

// x ~ scale * (q - zero), q uint8: the range of the row, widened to hold 0, over 255 steps. q beyond n up to `padded`
// is zero; sums [padded / 32] are the sums of q. A row of zeros has scale 0; NaN or infinity anywhere make scale NaN,
// so that what is computed from the row is NaN. Error: |x - scale (q - zero)| <= 0.5 scale (1 + 2^-14).
struct Quantized {
  float scale;
  std::int32_t zero;
};
// The scale and zero of a row whose values, and 0, lie in [low, high]; `odd` is 0 when all of them are finite.
Quantized quantized_range(float low, float high, float odd);

// out = x rounded to bfloat16 (narrow_bf16), zeros from n to `padded`, a multiple of kLanes.
using NarrowFn = void (*)(const float* x, std::size_t n, std::size_t padded, std::uint16_t* out);

using QuantizeFn = Quantized (*)(const float* x, std::size_t n, std::size_t padded, std::uint8_t* q,
                                 std::int32_t* sums);

}  // namespace gpt2::kernels
