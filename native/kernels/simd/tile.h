// The register tile: C[R, N] (+)= A[R, k] . B[k, N], the inner loop of matmul and of attention.
//
// Each sum is one chain of fused multiply-adds over t = 0 .. k-1. R rows share each load of B. Reading C first
// continues a chain that an earlier call began, with the same bits as one long chain.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels::simd {

// B as vectors of kLanes elements: vector n of row t stands at b + t * row + n * vector (in elements of E, which are
// float32, bfloat16 as uint16, or int8).
template <class E>
struct Rows {
  static constexpr std::size_t kSteps = 1;
  const E* b;
  std::size_t row, vector;

  Rows at(std::size_t t, std::size_t n) const { return {b + t * row + n * vector, row, vector}; }
  template <class V>
  void load(std::size_t t, std::size_t n, typename V::F (&out)[1]) const {
    out[0] = V::load(b + t * row + n * vector);
  }
};

// B as packed bfloat16: lines of 16 outputs x 2 k, `vector` bytes from one tile to the next.
struct Pairs {
  static constexpr std::size_t kSteps = 2;
  const std::byte* b;
  std::size_t vector;

  Pairs at(std::size_t t, std::size_t n) const { return {b + t / 2 * kLine + n * vector, vector}; }
  template <class V>
  void load(std::size_t t, std::size_t n, typename V::F (&out)[2]) const {
    V::load_pair(b + t / 2 * kLine + n * vector, out[0], out[1]);
  }
};

template <class B>
struct Tile {
  const float* a;
  std::size_t lda;
  B b;
  float* c;
  std::size_t ldc;
  std::size_t k;
  std::size_t columns;  // at most tile_vectors<V>(rows) * kLanes
  bool load_c;
};

inline constexpr std::size_t kTileRows = 6;

// Vectors of a register tile with so many rows. One or two rows get more than many rows have registers for: a chain
// takes a step in the time of some eight multiply-adds, so that a few chains alone would leave the units idle.
template <class V>
constexpr std::size_t tile_vectors(std::size_t rows) {
  const std::size_t wanted = rows == 1 ? 4 : rows == 2 ? 2 : 1;
  return wanted > V::kTileVectors ? wanted : V::kTileVectors;
}

// Two vectors of B at a time, so that the pairs of bfloat16 do not need more registers than there are.
template <class V, int R, int N, class B, std::size_t S>
inline void tile_step(const Tile<B>& t, std::size_t p, typename V::F (&sum)[R][N]) {
  using F = typename V::F;
#pragma GCC unroll 8
  for (int n0 = 0; n0 < N; n0 += 2) {
    F b[2][B::kSteps];
#pragma GCC unroll 2
    for (int n = n0; n < (N < n0 + 2 ? N : n0 + 2); ++n)
      t.b.template load<V>(p, static_cast<std::size_t>(n), b[n - n0]);
#pragma GCC unroll 2
    for (std::size_t s = 0; s < S; ++s) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F x = V::set(t.a[static_cast<std::size_t>(r) * t.lda + p + s]);
#pragma GCC unroll 2
        for (int n = n0; n < (N < n0 + 2 ? N : n0 + 2); ++n) sum[r][n] = V::fma(x, b[n - n0][s], sum[r][n]);
      }
    }
  }
}

template <class V, int R, int N, class B>
inline void tile(const Tile<B>& t) {
  using F = typename V::F;
  const bool whole = t.columns == N * kLanes;
  const typename V::Mask last = V::mask(t.columns - (N - 1) * kLanes);
  F sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const float* c = t.c + static_cast<std::size_t>(r) * t.ldc + static_cast<std::size_t>(n) * kLanes;
      sum[r][n] = !t.load_c ? V::zero() : whole || n + 1 < N ? V::load(c) : V::load(c, last);
    }
  }
  std::size_t p = 0;
  for (; p + B::kSteps <= t.k; p += B::kSteps) tile_step<V, R, N, B, B::kSteps>(t, p, sum);
  if constexpr (B::kSteps > 1) {
    if (p < t.k) tile_step<V, R, N, B, 1>(t, p, sum);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* c = t.c + static_cast<std::size_t>(r) * t.ldc + static_cast<std::size_t>(n) * kLanes;
      if (whole || n + 1 < N) {
        V::store(c, sum[r][n]);
      } else {
        V::store(c, sum[r][n], last);
      }
    }
  }
}

template <class V, int R, class B>
inline void tile_columns(const Tile<B>& t) {
  const std::size_t vectors = (t.columns + kLanes - 1) / kLanes;
  if constexpr (tile_vectors<V>(R) > 2) {
    if (vectors == 4) return tile<V, R, 4>(t);
    if (vectors == 3) return tile<V, R, 3>(t);
  }
  if constexpr (tile_vectors<V>(R) > 1) {
    if (vectors == 2) return tile<V, R, 2>(t);
  }
  return tile<V, R, 1>(t);
}

// Any number of rows and columns, cut into tiles: as few as can be, of nearly as many rows each.
template <class V, class B>
inline void multiply(const Tile<B>& whole, std::size_t rows, std::size_t columns) {
  const std::size_t wide = tile_vectors<V>(rows) * kLanes;
  for (std::size_t j = 0; j < columns; j += wide) {
    std::size_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (std::size_t i = 0, some; i < rows; i += some, --tiles) {
      some = (rows - i + tiles - 1) / tiles;
      Tile<B> t = whole;
      t.a += i * t.lda;
      t.b = whole.b.at(0, j / kLanes);
      t.c += i * t.ldc + j;
      t.columns = columns - j < wide ? columns - j : wide;
      switch (some) {
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
