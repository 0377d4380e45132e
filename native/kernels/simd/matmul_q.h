// matmul_q.h for vectors. `V` is the vector of floats, `Q` the integer products of the instruction set:
//
//   Q::Acc          kTile int32            Q::W   the weights of a line, prepared       Q::X   four x, spread over a
//   line Q::kRows        rows of a register tile of int8;  Q::kNibbleRows  the same for int4 without unpacking
//   Q::Codes           a line's four low or four high nibbles
//   Q::dot(acc, x, w)  acc[j] += sum of the four products of output j, exactly
//
// A set whose products know only signed bytes (kCentred) multiplies x - 128 by int8 and adds 128 times the weights'
// sums (count): those of the bytes that were multiplied, because padding may hold any weight, its x being zero. A set
// that has an instruction for several rows gives sum_rows; where that reads the activations as 16-bit numbers, it gives
// widen, too. sum_nibbles does the same for int4 and any number of rows, without unpacking.
#pragma once
#include "kernels/matmul_q.h"
#include "kernels/simd/matmul.h"
#include "kernels/simd/unroll.h"

namespace gpt2::kernels::simd {

// sums[i][j] = float(exact sum) * (xscale[i] * scale[j]) for one tile of outputs.
template <class V, class Q>
inline void scale_sums(const MatmulQ& a, std::size_t i, std::size_t first, typename Q::Acc acc, float* sums) {
  acc = Q::sub(acc, Q::mul(Q::set(a.xzero[i]), Q::load(a.wsum + first)));
  if (a.zero != nullptr) {
    std::int32_t total = 0;
    for (std::size_t g = 0; g < padded_k(a.dtype, a.k) / kSumRun; ++g) total += a.xsums[i * a.ldsums + g];
    total -= static_cast<std::int32_t>(a.k) * a.xzero[i];
    acc = Q::sub(acc, Q::mul(Q::set(total), Q::load_i8(a.zero + first)));
  }
  V::store(sums, V::mul(Q::to_float(acc), V::mul(V::set(a.xscale[i]), V::load(a.scale + first))));
}

// The scaled sums of a register tile.
template <class V, class Q, int R, int N>
inline void scale_tile(const MatmulQ& a, std::size_t i, std::size_t first, const typename Q::Acc (&acc)[R][N],
                       float* sums) {
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) {
      scale_sums<V, Q>(a, i + r, first + n * kTile, acc[r][n], sums + r * kPanel + n * kTile);
    });
  });
}

// acc[r][n] = the exact sum over all lines.
template <class Q, int R, int N>
inline void sum_lines(const std::uint8_t* x, std::size_t ldx, const std::byte* w, std::size_t stride,
                      typename Q::Acc (&acc)[R][N]) {
  typename Q::Acc count[N];
  unrolled<N>([&](auto n) __attribute__((always_inline)) {
    count[n] = Q::zero();
    unrolled<R>([&](auto r) __attribute__((always_inline)) { acc[r][n] = Q::zero(); });
  });
  for (std::size_t line = 0; line < stride; line += kLine) {
    typename Q::W b[N];
    unrolled<N>([&](auto n) __attribute__((always_inline)) {
      b[n] = Q::weights(w + line + n * stride);
      if constexpr (Q::kCentred) count[n] = Q::count(count[n], b[n]);
    });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const typename Q::X four = Q::spread(x + r * ldx + line / kTile);
      unrolled<N>([&](auto n) __attribute__((always_inline)) { acc[r][n] = Q::dot(acc[r][n], four, b[n]); });
    });
  }
  if constexpr (Q::kCentred) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) {
      unrolled<R>([&](auto r)
                      __attribute__((always_inline)) { acc[r][n] = Q::add(acc[r][n], Q::mul(Q::set(128), count[n])); });
    });
  }
}

template <class Q>
concept Widens = requires {
  &Q::widen;
};

// Where the rows of a register tile stand as 16-bit numbers.
inline std::int16_t* wide_rows(const MatmulQ& a) {
  return reinterpret_cast<std::int16_t*>(static_cast<std::byte*>(a.scratch) + padded_k(a.dtype, a.k) * kPanel);
}

template <class V, class Q, int R, int N>
inline void tile_i8(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, std::size_t stride,
                    float* sums) {
  typename Q::Acc acc[R][N];
  if constexpr (R > 1 && requires { &Q::template sum_rows<R>; }) {
    static_assert(N == 1);
    typename Q::Acc rows[R] = {};
    if constexpr (Widens<Q>) {
      Q::template sum_rows<R>(wide_rows(a), wide_row(padded_k(a.dtype, a.k)), w, stride, rows);
    } else {
      Q::template sum_rows<R>(a.x + i * a.ldx, a.ldx, w, stride, rows);
    }
    unrolled<R>([&](auto r) __attribute__((always_inline)) { acc[r][0] = rows[r]; });
  } else {
    sum_lines<Q, R, N>(a.x + i * a.ldx, a.ldx, w, stride, acc);
  }
  scale_tile<V, Q, R, N>(a, i, first, acc, sums);
}

// The same from nibbles: the sums of a group are multiplied by its mult before they join the total.
template <class V, class Q, int R, int N>
inline void tile_i4(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, std::size_t stride,
                    float* sums) {
  using Acc = typename Q::Acc;
  const std::size_t groups = padded_k(DType::kI4, a.k) / a.group, lines = a.group / 8, runs = a.group / kSumRun;
  const std::uint8_t* x = a.x + i * a.ldx;
  Acc total[R][N];
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) { total[r][n] = Q::zero(); });
  });
  for (std::size_t g = 0; g < groups; ++g) {
    std::int32_t sum[R];
    Acc acc[R][N];
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const std::int32_t* s = a.xsums + (i + r) * a.ldsums + g * runs;
      sum[r] = 0;
      for (std::size_t run = 0; run < runs; ++run) sum[r] += s[run];
      unrolled<N>([&](auto n) __attribute__((always_inline)) {
        acc[r][n] = a.offset == nullptr ? Q::set(-8 * sum[r]) : Q::zero();
      });
    });
    for (std::size_t line = g * lines * kLine; line < (g + 1) * lines * kLine; line += kLine) {
      typename Q::X low_x[R], high_x[R];
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        low_x[r] = Q::spread(x + r * a.ldx + line / 8);
        high_x[r] = Q::spread(x + r * a.ldx + line / 8 + 4);
      });
      unrolled<N>([&](auto n) __attribute__((always_inline)) {
        typename Q::Codes low, high;
        Q::nibbles(w + line + n * stride, low, high);
        unrolled<R>([&](auto r) __attribute__((always_inline)) {
          acc[r][n] = Q::dot(Q::dot(acc[r][n], low_x[r], low), high_x[r], high);
        });
      });
    }
    unrolled<N>([&](auto n) __attribute__((always_inline)) {
      const std::size_t at = ((first / kTile + n) * groups + g) * kTile;
      const Acc mult = Q::load_u8(a.mult + at);
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        total[r][n] = Q::add(total[r][n], Q::mul(acc[r][n], mult));
        if (a.offset != nullptr) {
          total[r][n] = Q::add(total[r][n], Q::mul(Q::set(sum[r]), Q::load_i8(a.offset + at)));
        }
      });
    });
  }
  scale_tile<V, Q, R, N>(a, i, first, total, sums);
}

template <class Q>
concept SumsNibbles = requires {
  &Q::template sum_nibbles<1>;
};

template <class V, class Q, int R>
inline void tile_nibbles(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, float* sums) {
  typename Q::Acc rows[R] = {}, acc[R][1];
  Q::template sum_nibbles<R>(a, i, first, w, rows);
  unrolled<R>([&](auto r) __attribute__((always_inline)) { acc[r][0] = rows[r]; });
  scale_tile<V, Q, R, 1>(a, i, first, acc, sums);
}

// N tiles of outputs for `rows` rows from i, at most as many as a register tile has.
template <class V, class Q, int N, bool kNibbles>
inline void register_tile(const MatmulQ& a, std::size_t i, std::size_t rows, std::size_t first, const std::byte* w,
                          std::size_t stride, float* sums) {
  constexpr int kMost = kNibbles ? Q::kNibbleRows : Q::kRows;
  unrolled<kMost>([&](auto r) __attribute__((always_inline)) {
    constexpr int kRows = decltype(r)::value + 1;
    if (rows != kRows) return;
    if constexpr (kNibbles && SumsNibbles<Q>) {
      tile_nibbles<V, Q, kRows>(a, i, first, w, sums);
    } else if constexpr (kNibbles) {
      tile_i4<V, Q, kRows, N>(a, i, first, w, stride, sums);
    } else {
      tile_i8<V, Q, kRows, N>(a, i, first, w, stride, sums);
    }
  });
}

// A panel of up to four tiles, `w` holding their weights: each few rows are summed and finished while their sums are in
// the first-level cache.
template <class V, class Q, bool kNibbles>
inline void panel(const MatmulQ& a, std::size_t first, std::size_t n, const std::byte* w, std::size_t stride) {
  constexpr std::size_t kMost = kNibbles ? Q::kNibbleRows : Q::kRows;
  alignas(kLine) float sums[kMost * kPanel];
  std::size_t tiles = (a.m + kMost - 1) / kMost;  // as few as can be, of nearly as many rows each
  for (std::size_t i = 0, rows; i < a.m; i += rows, --tiles) {
    rows = (a.m - i + tiles - 1) / tiles;
    if constexpr (Widens<Q> && !kNibbles) {
      static_assert(kMost <= kMostRowsQ);
      const std::size_t kp = padded_k(a.dtype, a.k);
      for (std::size_t r = 0; r < rows; ++r) Q::widen(a.x + (i + r) * a.ldx, kp, wide_rows(a) + r * wide_row(kp));
    }
    if (V::kTileVectors == 4 && n > 3 * kTile) {
      register_tile<V, Q, V::kTileVectors, kNibbles>(a, i, rows, first, w, stride, sums);
    } else {
      for (std::size_t t = 0; t * kTile < n; ++t) {
        register_tile<V, Q, 1, kNibbles>(a, i, rows, first + t * kTile, w + t * stride, stride, sums + t * kTile);
      }
    }
    for (std::size_t r = 0; r < rows; ++r) finish_row<V>(a, i + r, first, sums + r * kPanel, n);
  }
}

// A tile of int4 as the int8 that it means, line by line.
template <class Q>
inline void unpack_tile(const MatmulQ& a, std::size_t tile, const std::byte* w, std::byte* out) {
  const std::size_t groups = padded_k(DType::kI4, a.k) / a.group, lines = a.group / 8;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t at = (tile * groups + g) * kTile;
    const typename Q::Unpack unpack(a.mult + at, a.offset == nullptr ? nullptr : a.offset + at);
    for (std::size_t l = 0; l < lines; ++l) {
      const std::size_t line = g * lines + l;
      unpack(w + line * kLine, out + 2 * line * kLine);
    }
  }
}

template <class V, class Q>
void matmul_q(const MatmulQ& a) {
  const std::size_t stride = tile_bytes(a.dtype, a.k);
  [[maybe_unused]] auto* unpacked = static_cast<std::byte*>(a.scratch);
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    const std::byte* w = static_cast<const std::byte*>(a.w) + first / kTile * stride;
    if (a.dtype == DType::kI8) {
      panel<V, Q, false>(a, first, n, w, stride);
    } else if (SumsNibbles<Q> || a.m <= Q::kNibbleRows) {
      panel<V, Q, true>(a, first, n, w, stride);
    } else if constexpr (!SumsNibbles<Q>) {
      for (std::size_t t = 0; t * kTile < n; ++t) {
        unpack_tile<Q>(a, first / kTile + t, w + t * stride, unpacked + 2 * t * stride);
      }
      panel<V, Q, false>(a, first, n, unpacked, 2 * stride);
    }
  }
}

}  // namespace gpt2::kernels::simd
