// attention.h as plain loops.
#include "kernels/attention.h"

#include <cmath>

#include "kernels/generic/kernels.h"
#include "kernels/generic/lanes.h"

namespace gpt2::kernels::generic {
namespace {

float element(DType t, const std::byte* at, std::size_t i) {
  if (t == DType::kI8) return static_cast<float>(reinterpret_cast<const std::int8_t*>(at)[i]);
  return load_weight(at, t, i);
}

// The scale of the key or value of position j; 1 where the cache has none.
float scale_of(const Attention& a, std::size_t at, std::size_t j) {
  if (a.layout.dtype != DType::kI8) return 1.0f;
  return reinterpret_cast<const float*>(a.blocks[j / kBlock] + a.offset + at)[j % kBlock];
}

float score(const Attention& a, const float* q, std::size_t j) {
  const std::byte* keys = a.blocks[j / kBlock] + a.offset;
  float s = 0.0f;
  for (std::size_t d = 0; d < a.layout.head_dim; ++d) {
    s = std::fma(q[d], element(a.layout.dtype, keys, d * kBlock + j % kBlock), s);
  }
  return s * (a.scale * scale_of(a, a.layout.key_scales(), j));
}

}  // namespace

void attention(const Attention& a) {
  float* p = a.scratch;
  for (std::size_t i = 0; i < a.m; ++i) {
    const std::size_t seen = a.start + i + 1;
    float top = -INFINITY;
    for (std::size_t j = 0; j < seen; ++j) {
      p[j] = score(a, a.q + i * a.ldq, j);
      top = p[j] > top ? p[j] : top;
    }
    Lanes total;
    for (std::size_t j = 0; j < seen; ++j) {
      p[j] = exp(p[j] - top);
      total.lane[j % kLanes] += p[j];
      p[j] *= scale_of(a, a.layout.value_scales(), j);
    }
    const float inverse = 1.0f / total.total();
    float* out = a.out + i * a.ldo;
    for (std::size_t d = 0; d < a.layout.head_dim; ++d) {
      float sum = 0.0f;
      for (std::size_t j = 0; j < seen; ++j) {
        const std::byte* values = a.blocks[j / kBlock] + a.offset + a.layout.values();
        sum = std::fma(p[j], element(a.layout.dtype, values, j % kBlock * a.layout.value_stride() + d), sum);
      }
      out[d] = sum * inverse;
    }
  }
}

}  // namespace gpt2::kernels::generic
