// matmul.h for vectors.
#pragma once
#include "kernels/matmul.h"
#include "kernels/simd/math.h"
#include "kernels/simd/tile.h"

namespace gpt2::kernels::simd {

// y[row][first + j] = act(sum[j] + bias), or y += sum + bias, for n columns; `a` is a Matmul or a MatmulQ. The
// activation is applied before the only store, and whole vectors go without a mask: what was just stored under a mask
// would have to reach the cache before it could be read again.
template <class V, class A>
inline void finish_row(const A& a, std::size_t row, std::size_t first, const float* sum, std::size_t n) {
  float* y = a.y + row * a.ldy + first;
  const bool by_lane = !vectorised(a.activation);
  for (std::size_t j = 0; j < n; j += kLanes) {
    const bool whole = n - j >= kLanes;
    const typename V::Mask m = V::mask(n - j);
    const auto read = [&](const float* p) { return whole ? V::load(p) : V::load(p, m); };
    typename V::F v = read(sum + j);
    if (a.bias != nullptr) v = V::add(v, read(a.bias + first + j));
    if (a.accumulate) {
      v = V::add(read(y + j), v);
    } else if (!by_lane) {
      v = activation<V>(a.activation, v);
    }
    if (whole) {
      V::store(y + j, v);
    } else {
      V::store(y + j, v, m);
    }
  }
  if (!a.accumulate && by_lane) activate_by_lane<V>(a.activation, y, n);
}

// Panel by panel; with many rows also block of k by block of k, so that a panel stays in the cache while the rows pass.
template <class V, class B>
inline void matmul_panels(const Matmul& a, B weights) {
  const std::size_t depth = a.m <= kTileRows ? a.k : kDepth;
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    for (std::size_t t = 0; t < a.k; t += depth) {
      const B b = weights.at(t, first / kTile);
      const Tile<B> whole = {a.x + t, a.ldx, b, a.scratch, kPanel, a.k - t < depth ? a.k - t : depth, 0, t > 0};
      multiply<V>(whole, a.m, round_up(n, kTile));
    }
    for (std::size_t i = 0; i < a.m; ++i) finish_row<V>(a, i, first, a.scratch + i * kPanel, n);
  }
}

template <class V>
void matmul(const Matmul& a) {
  const std::size_t bytes = tile_bytes(a.dtype, a.k);
  if (a.dtype == DType::kF32) {
    return matmul_panels<V>(a, Rows<float>{static_cast<const float*>(a.w), kTile, bytes / sizeof(float)});
  }
  matmul_panels<V>(a, Pairs{static_cast<const std::byte*>(a.w), bytes});
}

}  // namespace gpt2::kernels::simd
