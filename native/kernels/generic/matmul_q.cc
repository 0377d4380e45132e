// matmul_q.h as plain loops.
#include "kernels/matmul_q.h"

#include "kernels/generic/kernels.h"

namespace gpt2::kernels::generic {
namespace {

// w8(t, j): a byte of int8, or mult * code + offset of int4.
std::int32_t weight(const MatmulQ& a, std::size_t t, std::size_t j) {
  const std::size_t depth = depth_of(a.dtype);
  const auto* line = static_cast<const std::uint8_t*>(a.w) + j / kTile * tile_bytes(a.dtype, a.k) + t / depth * kLine;
  const std::uint8_t byte = line[j % kTile * 4 + t % 4];
  if (a.dtype == DType::kI8) return static_cast<std::int8_t>(byte);
  const std::size_t at = (j / kTile * (padded_k(a.dtype, a.k) / a.group) + t / a.group) * kTile + j % kTile;
  const std::int32_t code = t % depth < 4 ? byte & 15 : byte >> 4;
  return a.mult[at] * code + (a.offset == nullptr ? -8 * a.mult[at] : a.offset[at]);
}

}  // namespace

void matmul_q(const MatmulQ& a) {
  for (std::size_t i = 0; i < a.m; ++i) {
    for (std::size_t j = a.first; j < a.last; ++j) {
      const std::int32_t zero = a.zero == nullptr ? 0 : a.zero[j];
      std::int32_t sum = 0;
      for (std::size_t t = 0; t < a.k; ++t) {
        sum += (std::int32_t{a.x[i * a.ldx + t]} - a.xzero[i]) * (weight(a, t, j) - zero);
      }
      finish(a, i, j, static_cast<float>(sum) * (a.xscale[i] * a.scale[j]));
    }
  }
}

}  // namespace gpt2::kernels::generic
