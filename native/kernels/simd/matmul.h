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

// `depth` k of `tiles` tiles of bfloat16 as float32, the tiles one after the other.
template <class V>
inline Rows<float> widened(const Pairs& from, std::size_t depth, std::size_t tiles, float* to) {
  const std::size_t even = round_up(depth, 2);
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    const Pairs source = from.at(0, tile);
    float* out = to + tile * even * kTile;
    for (std::size_t t = 0; t < even; t += 2) {
      typename V::F pair[2];
      source.template load<V>(t, 0, pair);
      V::store(out + t * kTile, pair[0]);
      V::store(out + (t + 1) * kTile, pair[1]);
    }
  }
  return {to, kTile, even * kTile};
}

// Panel by panel; with many rows also block of k by block of k, so that a panel stays in the cache while the rows pass.
// bfloat16 is widened once for all rows where these are more than a few.
template <class V, class B>
inline void matmul_panels(const Matmul& a, B weights) {
  const std::size_t depth = a.m <= kTileRows ? a.k : kDepth;
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    for (std::size_t t = 0; t < a.k; t += depth) {
      const B b = weights.at(t, first / kTile);
      const std::size_t deep = a.k - t < depth ? a.k - t : depth;
      if constexpr (B::kSteps > 1) {
        if (a.m > 2 * kTileRows) {
          const Rows<float> wide = widened<V>(b, deep, round_up(n, kTile) / kTile, a.scratch + a.m * kPanel);
          const Tile<Rows<float>> tile = {a.x + t, a.ldx, wide, a.scratch, kPanel, deep, 0, t > 0};
          multiply<V>(tile, a.m, round_up(n, kTile));
          continue;
        }
      }
      const Tile<B> whole = {a.x + t, a.ldx, b, a.scratch, kPanel, deep, 0, t > 0};
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
