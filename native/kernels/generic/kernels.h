// The plain kernels: what the fast ones must agree with bit for bit, and what runs where there is no vector unit that
// we know.
#pragma once
#include "kernels/table.h"

namespace gpt2::kernels::generic {

void matmul(const Matmul& a);
void matmul_q(const MatmulQ& a);
void attention(const Attention& a);
void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, float* y, std::size_t n);
void activate(Activation a, float* y, std::size_t n);
Quantized quantize(const float* x, std::size_t n, std::size_t padded, std::uint8_t* q, std::int32_t* sums);

// y[row][column] = act(sum + bias), or y += sum + bias; `a` is a Matmul or a MatmulQ.
float activation(Activation a, float x);
template <class A>
void finish(const A& a, std::size_t row, std::size_t column, float sum) {
  if (a.bias != nullptr) sum += a.bias[column];
  float& y = a.y[row * a.ldy + column];
  y = a.accumulate ? y + sum : activation(a.activation, sum);
}

}  // namespace gpt2::kernels::generic
