// Storing keys and values: a few hundred numbers per token, the same code for every instruction set.
#include <cmath>

#include "kernels/attention.h"

namespace gpt2::kernels {
namespace {

// The largest magnitude over 127; NaN if any value is not finite.
float step_of(const float* v, std::size_t d) {
  float top = 0.0f;
  for (std::size_t i = 0; i < d; ++i) {
    const float size = std::fabs(v[i]);
    if (!(size <= 3.402823466e38f)) return NAN;
    top = size > top ? size : top;
  }
  return top / 127.0f;
}

void write_i8(std::int8_t* out, std::size_t stride, float* scale, const float* v, std::size_t d) {
  const float step = step_of(v, d);
  const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  for (std::size_t i = 0; i < d; ++i) {
    float q = inverse > 3.402823466e38f ? 0.0f : round_even(v[i] * inverse);
    q = q > 127.0f ? 127.0f : q;
    q = q < -127.0f ? -127.0f : q;
    out[i * stride] = static_cast<std::int8_t>(q == q ? q : 0.0f);
  }
  *scale = step;
}

}  // namespace

void write_head(const HeadLayout& layout, std::byte* head, std::size_t slot, const float* key, const float* value) {
  const std::size_t d = layout.head_dim, stride = layout.value_stride();
  std::byte* values = head + layout.values();
  switch (layout.dtype) {
    case DType::kF32: {
      auto* k = reinterpret_cast<float*>(head) + slot;
      for (std::size_t i = 0; i < d; ++i) k[i * kBlock] = key[i];
      std::memcpy(reinterpret_cast<float*>(values) + slot * stride, value, d * sizeof(float));
      break;
    }
    case DType::kBF16: {
      auto* k = reinterpret_cast<std::uint16_t*>(head) + slot;
      auto* v = reinterpret_cast<std::uint16_t*>(values) + slot * stride;
      for (std::size_t i = 0; i < d; ++i) k[i * kBlock] = narrow_bf16(key[i]);
      for (std::size_t i = 0; i < d; ++i) v[i] = narrow_bf16(value[i]);
      break;
    }
    default: {
      auto* scales = reinterpret_cast<float*>(head + layout.key_scales());
      write_i8(reinterpret_cast<std::int8_t*>(head) + slot, kBlock, scales + slot, key, d);
      write_i8(reinterpret_cast<std::int8_t*>(values) + slot * stride, 1, scales + kBlock + slot, value, d);
    }
  }
}

}  // namespace gpt2::kernels
