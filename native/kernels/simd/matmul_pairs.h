// matmul.h for bfloat16 weights and activations rounded to bfloat16, on products of pairs. `V` is the vector of floats,
// `P` the products:
//
//   P::Acc   kTile float32      P::W   a line of weights: kTile outputs x 2 k      P::X   two x, spread over a line
//   P::dot(acc, x, w)  adds to acc[j] the products of output j: of the second k, then of the first
//
// Panel by panel as in matmul_q.h: each few rows are summed over all of k and finished while their sums are in the
// first-level cache. The order of a sum is that of k, pair by pair, whatever the number of rows.
#pragma once
#include "kernels/simd/matmul.h"
#include "kernels/simd/unroll.h"

namespace gpt2::kernels::simd {

// 6 x 4 sums, 4 lines of weights and a spread x: 29 of the 32 registers of AVX-512.
inline constexpr int kPairRows = 6;
inline constexpr int kPairTiles = kPanel / kTile;

template <class P, int R, int N>
inline void pair_tile(const std::uint16_t* x, std::size_t ldx, const std::byte* w, std::size_t stride, float* sums) {
  typename P::Acc acc[R][N];
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) { acc[r][n] = P::zero(); });
  });
  for (std::size_t line = 0; line < stride; line += kLine) {
    typename P::W b[N];
    unrolled<N>([&](auto n) __attribute__((always_inline)) { b[n] = P::weights(w + line + n * stride); });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const typename P::X two = P::spread(x + r * ldx + line / kLine * 2);
      unrolled<N>([&](auto n) __attribute__((always_inline)) { acc[r][n] = P::dot(acc[r][n], two, b[n]); });
    });
  }
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) { P::store(sums + r * kPanel + n * kTile, acc[r][n]); });
  });
}

template <class P, int N>
inline void pair_rows(const Matmul& a, std::size_t i, std::size_t rows, const std::byte* w, std::size_t stride,
                      float* sums) {
  unrolled<kPairRows>([&](auto r) __attribute__((always_inline)) {
    constexpr int kRows = decltype(r)::value + 1;
    if (rows == kRows) pair_tile<P, kRows, N>(a.narrow_x + i * a.narrow_ldx, a.narrow_ldx, w, stride, sums);
  });
}

template <class V, class P>
void matmul_pairs(const Matmul& a) {
  const std::size_t stride = tile_bytes(a.dtype, a.k);
  alignas(kLine) float sums[kPairRows * kPanel];
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    const std::byte* w = static_cast<const std::byte*>(a.w) + first / kTile * stride;
    for (std::size_t i = 0; i < a.m; i += kPairRows) {
      const std::size_t rows = a.m - i < kPairRows ? a.m - i : kPairRows;
      if (n > kPanel - kTile) {
        pair_rows<P, kPairTiles>(a, i, rows, w, stride, sums);
      } else {
        for (std::size_t t = 0; t * kTile < n; ++t)
          pair_rows<P, 1>(a, i, rows, w + t * stride, stride, sums + t * kTile);
      }
      for (std::size_t r = 0; r < rows; ++r) finish_row<V>(a, i + r, first, sums + r * kPanel, n);
    }
  }
}

}  // namespace gpt2::kernels::simd
