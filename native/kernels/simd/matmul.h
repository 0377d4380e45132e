// matmul.h for vectors.
#pragma once
#include "kernels/matmul.h"
#include "kernels/simd/math.h"
#include "kernels/simd/tile.h"

namespace gpt2::kernels::simd {

// y[row][first + j] = act(sum[j] + bias), or y += sum + bias, for n columns; `a` is a Matmul or a MatmulQ.
template <class V, class A>
inline void finish_row(const A& a, std::size_t row, std::size_t first, const float* sum, std::size_t n) {
  float* y = a.y + row * a.ldy + first;
  for (std::size_t j = 0; j < n; j += kLanes) {
    const typename V::Mask m = V::mask(n - j);
    typename V::F v = V::load(sum + j, m);
    if (a.bias != nullptr) v = V::add(v, V::load(a.bias + first + j, m));
    if (a.accumulate) v = V::add(V::load(y + j, m), v);
    V::store(y + j, v, m);
  }
  if (!a.accumulate) activate<V>(a.activation, y, n);
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
