// The register tile: C[R, N] (+)= A[R, k] . B[k, N] with B row by row, the inner loop of matmul and of attention.
//
// Each sum is one chain of fused multiply-adds over t = 0 .. k-1. R rows share each load of B. Reading C first
// continues a chain that an earlier call began, with the same bits as one long chain.
#pragma once
#include <type_traits>

#include "kernels/types.h"

namespace gpt2::kernels::simd {

struct Tile {
  const float* a;
  std::size_t lda;
  const float* b;
  std::size_t ldb;
  float* c;
  std::size_t ldc;
  std::size_t k;
  std::size_t columns;  // at most kTileVectors * kWidth
  bool load_c;
};

inline constexpr std::size_t kTileRows = 6;

template <class V, int R, int N>
inline void tile(const Tile& t) {
  using F = typename V::F;
  const typename V::Mask last = V::mask(t.columns - (N - 1) * V::kWidth);
  F sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const float* c = t.c + static_cast<std::size_t>(r) * t.ldc + static_cast<std::size_t>(n) * V::kWidth;
      sum[r][n] = !t.load_c ? V::zero() : n + 1 < N ? V::load(c) : V::load(c, last);
    }
  }
  const bool whole = t.columns == N * V::kWidth;
  const float* b = t.b;
  const auto step = [&](std::size_t p, auto full) {
    F row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const float* at = b + static_cast<std::size_t>(n) * V::kWidth;
      row[n] = decltype(full)::value || n + 1 < N ? V::load(at) : V::load(at, last);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F x = V::set(t.a[static_cast<std::size_t>(r) * t.lda + p]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[r][n] = V::fma(x, row[n], sum[r][n]);
    }
    b += t.ldb;
  };
  if (whole) {
    for (std::size_t p = 0; p < t.k; ++p) step(p, std::true_type{});
  } else {
    for (std::size_t p = 0; p < t.k; ++p) step(p, std::false_type{});
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* c = t.c + static_cast<std::size_t>(r) * t.ldc + static_cast<std::size_t>(n) * V::kWidth;
      if (n + 1 < N) {
        V::store(c, sum[r][n]);
      } else {
        V::store(c, sum[r][n], last);
      }
    }
  }
}

template <class V, int R>
inline void tile_columns(const Tile& t) {
  const std::size_t vectors = (t.columns + V::kWidth - 1) / V::kWidth;
  if constexpr (V::kTileVectors > 2) {
    if (vectors == 4) return tile<V, R, 4>(t);
    if (vectors == 3) return tile<V, R, 3>(t);
  }
  if (vectors == 2) return tile<V, R, 2>(t);
  return tile<V, R, 1>(t);
}

// Any number of rows and columns, cut into tiles.
template <class V>
inline void multiply(const Tile& whole, std::size_t rows, std::size_t columns) {
  constexpr std::size_t wide = V::kTileVectors * V::kWidth;
  for (std::size_t j = 0; j < columns; j += wide) {
    for (std::size_t i = 0; i < rows; i += kTileRows) {
      Tile t = whole;
      t.a += i * t.lda;
      t.b += j;
      t.c += i * t.ldc + j;
      t.columns = columns - j < wide ? columns - j : wide;
      switch (rows - i) {
        case 1: tile_columns<V, 1>(t); break;
        case 2: tile_columns<V, 2>(t); break;
        case 3: tile_columns<V, 3>(t); break;
        case 4: tile_columns<V, 4>(t); break;
        case 5: tile_columns<V, 5>(t); break;
        default: tile_columns<V, 6>(t); break;
      }
    }
  }
}

}  // namespace gpt2::kernels::simd
