// The kernels as plain loops: what the fast ones must agree with, and what runs where there is no vector unit that we
// know.
#include <cmath>

#include "kernels/table.h"

namespace gpt2::kernels::generic {
namespace {

float activation(Activation a, float x) {
  switch (a) {
    case Activation::kNone: return x;
    case Activation::kGeluTanh: {  // Hendrycks & Gimpel 2016, arXiv:1606.08415, the tanh form of GPT-2
      const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + std::tanh(inner));
    }
    case Activation::kGeluErf: return 0.5f * x * (1.0f + std::erf(x * 0.7071067811865476f));
    case Activation::kRelu: return x > 0.0f ? x : (x == x ? 0.0f : x);
    case Activation::kSilu: return x / (1.0f + std::exp(-x));
    case Activation::kQuickGelu: return x / (1.0f + std::exp(-1.702f * x));
    case Activation::kTanh: return std::tanh(x);
  }
  return x;
}

void finish(const Matmul& a, std::size_t row, std::size_t column, float sum) {
  if (a.bias != nullptr) sum += a.bias[column];
  float& y = a.y[row * a.ldy + column];
  y = a.accumulate ? y + sum : activation(a.activation, sum);
}

void matmul_kn(const Matmul& a) {
  for (std::size_t i = 0; i < a.m; ++i) {
    for (std::size_t j0 = a.first; j0 < a.last; j0 += kPanel) {
      const std::size_t columns = a.last - j0 < kPanel ? a.last - j0 : kPanel;
      float sum[kPanel] = {};
      for (std::size_t t = 0; t < a.k; ++t) {
        const float x = a.x[i * a.ldx + t];
        for (std::size_t j = 0; j < columns; ++j) sum[j] += x * load_weight(a.w, a.dtype, t * a.ldw + j0 + j);
      }
      for (std::size_t j = 0; j < columns; ++j) finish(a, i, j0 + j, sum[j]);
    }
  }
}

void matmul_nk(const Matmul& a) {
  for (std::size_t i = 0; i < a.m; ++i) {
    for (std::size_t j = a.first; j < a.last; ++j) {
      float sum = 0.0f;
      for (std::size_t t = 0; t < a.k; ++t) sum += a.x[i * a.ldx + t] * load_weight(a.w, a.dtype, j * a.ldw + t);
      finish(a, i, j, sum);
    }
  }
}

void attention(const Attention& a) {
  const std::size_t d_count = a.head_dim;
  float* p = a.scratch;
  for (std::size_t i = 0; i < a.m; ++i) {
    const std::size_t seen = a.start + i + 1;
    const float* q = a.q + i * a.ldq;
    float top = -INFINITY;
    for (std::size_t j = 0; j < seen; ++j) {
      const float* keys = a.blocks[j / kBlock] + a.offset + j % kBlock;
      float s = 0.0f;
      for (std::size_t d = 0; d < d_count; ++d) s += q[d] * keys[d * kBlock];
      p[j] = s * a.scale;
      if (p[j] > top) top = p[j];
    }
    float total = 0.0f;
    for (std::size_t j = 0; j < seen; ++j) total += p[j] = std::exp(p[j] - top);
    float* out = a.out + i * a.ldo;
    for (std::size_t d = 0; d < d_count; ++d) out[d] = 0.0f;
    for (std::size_t j = 0; j < seen; ++j) {
      const float* value = a.blocks[j / kBlock] + a.offset + d_count * kBlock + (j % kBlock) * d_count;
      for (std::size_t d = 0; d < d_count; ++d) out[d] += p[j] * value[d];
    }
    const float inverse = 1.0f / total;
    for (std::size_t d = 0; d < d_count; ++d) out[d] *= inverse;
  }
}

void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, float* y, std::size_t n) {
  float sum = 0.0f;
  for (std::size_t j = 0; j < n; ++j) sum += x[j];
  const float mean = sum / static_cast<float>(n);
  float squares = 0.0f;
  for (std::size_t j = 0; j < n; ++j) squares += (x[j] - mean) * (x[j] - mean);
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
  for (std::size_t j = 0; j < n; ++j) y[j] = (x[j] - mean) * inverse * gain[j] + bias[j];
}

void embed(const void* token, const void* position, DType dtype, float* y, std::size_t n) {
  for (std::size_t j = 0; j < n; ++j) y[j] = load_weight(token, dtype, j) + load_weight(position, dtype, j);
}

void activate(Activation a, float* y, std::size_t n) {
  for (std::size_t j = 0; j < n; ++j) y[j] = activation(a, y[j]);
}

}  // namespace

const Kernels kTable = {matmul_kn, matmul_nk, attention, layer_norm, embed, activate};

}  // namespace gpt2::kernels::generic
