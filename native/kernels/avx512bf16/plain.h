// vdpbf16ps in plain C++, as Intel's manual defines it (Software Developer's Manual, volume 2): for tests.
#pragma once
#include "kernels/generic/flushed.h"
#include "kernels/types.h"

namespace gpt2::kernels::avx512bf16 {

// acc + the product of the second elements, rounded, + that of the first, rounded; denormals are zeros, in and out.
inline float plain_dot(float acc, const std::uint16_t* x, const std::uint16_t* w) {
  acc = generic::flushed_fma(widen_bf16(x[1]), widen_bf16(w[1]), acc);
  return generic::flushed_fma(widen_bf16(x[0]), widen_bf16(w[0]), acc);
}

}  // namespace gpt2::kernels::avx512bf16
