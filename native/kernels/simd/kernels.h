// The row kernels for vectors, and the table of one instruction set.
#pragma once
#include "kernels/simd/attention.h"
#include "kernels/simd/math.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::simd {

template <class V>
void layer_norm(const float* x, const float* gain, const float* bias, float epsilon, float* y, std::size_t n) {
  using F = typename V::F;
  F sum = V::zero();
  for (std::size_t j = 0; j < n; j += kLanes) sum = V::add(sum, V::load(x + j, V::mask(n - j)));
  const F mean = V::set(sum_lanes<V>(sum) / static_cast<float>(n));
  F squares = V::zero();
  for (std::size_t j = 0; j < n; j += kLanes) {
    const typename V::Mask m = V::mask(n - j);
    const F centred = V::select(m, V::sub(V::load(x + j, m), mean), V::zero());
    squares = V::fma(centred, centred, squares);
  }
  const float variance = sum_lanes<V>(squares) / static_cast<float>(n);
  const F inverse = V::set(1.0f / __builtin_sqrtf(variance + epsilon));
  for (std::size_t j = 0; j < n; j += kLanes) {
    const typename V::Mask m = V::mask(n - j);
    const F centred = V::mul(V::sub(V::load(x + j, m), mean), inverse);
    V::store(y + j, V::fma(centred, V::load(gain + j, m), V::load(bias + j, m)), m);
  }
}

template <class V>
inline typename V::F lowest_and_highest(const float* x, std::size_t n, float& low, float& high) {
  using F = typename V::F;
  F least = V::zero(), most = V::zero(), odd = V::zero();
  for (std::size_t j = 0; j < n; j += kLanes) {
    const F v = V::load(x + j, V::mask(n - j));
    least = V::min(v, least);
    most = V::max(v, most);
    odd = V::add(odd, V::sub(v, v));  // 0, or NaN once something is not finite
  }
  low = -max_lanes<V>(V::sub(V::zero(), least));
  high = max_lanes<V>(most);
  return odd;
}

template <class V>
Quantized quantize(const float* x, std::size_t n, std::size_t padded, std::uint8_t* q, std::int32_t* sums) {
  using F = typename V::F;
  float low, high;
  const float odd = sum_lanes<V>(lowest_and_highest<V>(x, n, low, high));
  Quantized out = quantized_range(low, high, odd);
  const float inverse = out.scale > 0.0f ? 1.0f / out.scale : 0.0f;  // NaN > 0 is false
  const F factor = V::set(inverse <= 3.402823466e38f ? inverse : 0.0f);
  const F zero = V::set(static_cast<float>(out.zero));
  const bool bad = !(odd == 0.0f);
  for (std::size_t j = 0; j < padded; j += kLanes) {
    F v = V::zero();
    if (j < n && !bad) {
      const typename V::Mask m = V::mask(n - j);
      v = V::add(V::round(V::mul(V::load(x + j, m), factor)), zero);
      v = V::select(m, V::min(V::max(v, V::zero()), V::set(255.0f)), V::zero());
    }
    V::store_u8(q + j, v);
  }
  for (std::size_t g = 0; g < padded / kSumRun; ++g) sums[g] = V::sum_run(q + g * kSumRun);
  return out;
}

template <class V, class Q>
constexpr Kernels table() {
  return {matmul<V>, matmul_q<V, Q>, attention<V>, layer_norm<V>, activate<V>, quantize<V>};
}

}  // namespace gpt2::kernels::simd
