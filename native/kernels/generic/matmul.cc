// matmul.h as plain loops.
#include "kernels/matmul.h"

#include <cmath>

#include "kernels/generic/kernels.h"

namespace gpt2::kernels::generic {
namespace {

// W(t, j) of packed float32 or bfloat16.
float weight(const Matmul& a, std::size_t t, std::size_t j) {
  const std::size_t depth = depth_of(a.dtype);
  const auto* line = static_cast<const std::byte*>(a.w) + j / kTile * tile_bytes(a.dtype, a.k) + t / depth * kLine;
  return load_weight(line, a.dtype, j % kTile * depth + t % depth);
}

}  // namespace

void matmul(const Matmul& a) {
  for (std::size_t i = 0; i < a.m; ++i) {
    for (std::size_t j = a.first; j < a.last; ++j) {
      float sum = 0.0f;
      for (std::size_t t = 0; t < a.k; ++t) sum = std::fma(a.x[i * a.ldx + t], weight(a, t, j), sum);
      finish(a, i, j, sum);
    }
  }
}

}  // namespace gpt2::kernels::generic
