// The kernels that work on one row at a time: LayerNorm, embedding lookup, activation.
//
// Each is a pure function of its row, so batches and threads cannot change a bit of it.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

// y = (x - mean) / sqrt(var + epsilon) * gain + bias over n values (Ba et al. 2016, arXiv:1607.06450); the variance is
// the biased one, from the centred values. Sums: one chain per vector lane, then a fixed tree. Error: |y - exact| <= (n
// + 8) u (|x - mean| + mean|x|) / sigma * |gain| + u |y|, for finite x.
using LayerNormFn = void (*)(const float* x, const float* gain, const float* bias, float epsilon, float* y,
                             std::size_t n);

// y = token row + position row, both of the same storage type.
using EmbedFn = void (*)(const void* token, const void* position, DType dtype, float* y, std::size_t n);

// y[j] = activation(y[j]), in place. exp is within 2 ulp; erf and tanh are the C library's.
using ActivateFn = void (*)(Activation, float* y, std::size_t n);

}  // namespace gpt2::kernels
