// The row kernels for vectors, and the table of one instruction set.
#pragma once
#include "kernels/simd/attention.h"
#include "kernels/simd/math.h"
#include "kernels/simd/matmul.h"
#include "kernels/table.h"

namespace gpt2::kernels::simd {

template <class V>
void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, float* y, std::size_t n) {
  using F = typename V::F;
  F sum = V::zero();
  for (std::size_t j = 0; j < n; j += V::kWidth) sum = V::add(sum, V::load(x + j, V::mask(n - j)));
  const F mean = V::set(sum_lanes<V>(sum) / static_cast<float>(n));
  F squares = V::zero();
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    const F centred = V::select(m, V::sub(V::load(x + j, m), mean), V::zero());
    squares = V::fma(centred, centred, squares);
  }
  const float variance = sum_lanes<V>(squares) / static_cast<float>(n);
  const F inverse = V::set(1.0f / __builtin_sqrtf(variance + epsilon));
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    const F centred = V::mul(V::sub(V::load(x + j, m), mean), inverse);
    V::store(y + j, V::fma(centred, V::load(gain + j, m), V::load(bias + j, m)), m);
  }
}

template <class V, class W>
inline void add_rows(const W* token, const W* position, float* y, std::size_t n) {
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    V::store(y + j, V::add(V::load(token + j, m), V::load(position + j, m)), m);
  }
}

template <class V>
void embed(const void* token, const void* position, DType dtype, float* y, std::size_t n) {
  if (dtype == DType::kF32) {
    return add_rows<V>(static_cast<const float*>(token), static_cast<const float*>(position), y, n);
  }
  add_rows<V>(static_cast<const std::uint16_t*>(token), static_cast<const std::uint16_t*>(position), y, n);
}

template <class V>
constexpr Kernels table() {
  return {matmul_kn<V>, matmul_nk<V>, attention<V>, layer_norm<V>, embed<V>, activate<V>};
}

}  // namespace gpt2::kernels::simd
