// matmul_q.h for vectors. `V` is the vector of floats, `Q` the integer products of the instruction set:
//
//   Q::Acc          kTile int32            Q::W   the weights of a line, prepared       Q::X   four x, spread over a
//   line Q::kRows        rows of a register tile of int8;  Q::kNibbleRows  the same for int4 without unpacking
//   Q::Codes           a line's four low or four high nibbles
//   Q::dot(acc, x, w)  acc[j] += sum of the four products of output j, exactly
//
// A set whose products know only signed bytes (kCentred) multiplies x - 128 by int8 and adds 128 times the weights'
// sums (count): those of the bytes that were multiplied, because padding may hold any weight, its x being zero. A set
// that has an instruction for several rows gives sum_rows.
#pragma once
#include "kernels/matmul_q.h"
#include "kernels/simd/matmul.h"

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

// acc[r][n] = the exact sum over all lines.
template <class Q, int R, int N>
inline void sum_lines(const std::uint8_t* x, std::size_t ldx, const std::byte* w, std::size_t stride,
                      typename Q::Acc (&acc)[R][N]) {
  typename Q::Acc count[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    count[n] = Q::zero();
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][n] = Q::zero();
  }
  for (std::size_t line = 0; line < stride; line += kLine) {
    typename Q::W b[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      b[n] = Q::weights(w + line + static_cast<std::size_t>(n) * stride);
      if constexpr (Q::kCentred) count[n] = Q::count(count[n], b[n]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename Q::X four = Q::spread(x + static_cast<std::size_t>(r) * ldx + line / kTile);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = Q::dot(acc[r][n], four, b[n]);
    }
  }
  if constexpr (Q::kCentred) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][n] = Q::add(acc[r][n], Q::mul(Q::set(128), count[n]));
    }
  }
}

template <class V, class Q, int R, int N>
inline void tile_i8(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, std::size_t stride,
                    float* sums) {
  typename Q::Acc acc[R][N];
  if constexpr (R > 1 && requires { &Q::template sum_rows<R>; }) {
    static_assert(N == 1);
    typename Q::Acc rows[R];
    Q::template sum_rows<R>(a.x + i * a.ldx, a.ldx, w, stride, rows);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][0] = rows[r];
  } else {
    sum_lines<Q, R, N>(a.x + i * a.ldx, a.ldx, w, stride, acc);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      scale_sums<V, Q>(a, i + static_cast<std::size_t>(r), first + static_cast<std::size_t>(n) * kTile, acc[r][n],
                       sums + static_cast<std::size_t>(r) * kPanel + static_cast<std::size_t>(n) * kTile);
    }
  }
}

// The same from nibbles: the sums of a group are multiplied by its mult before they join the total.
template <class V, class Q, int R, int N>
inline void tile_i4(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, std::size_t stride,
                    float* sums) {
  using Acc = typename Q::Acc;
  const std::size_t groups = padded_k(DType::kI4, a.k) / a.group, lines = a.group / 8, runs = a.group / kSumRun;
  Acc total[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) total[r][n] = Q::zero();
  }
  for (std::size_t g = 0; g < groups; ++g) {
    std::int32_t sum[R];
    Acc acc[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::int32_t* s = a.xsums + (i + static_cast<std::size_t>(r)) * a.ldsums + g * runs;
      sum[r] = 0;
      for (std::size_t run = 0; run < runs; ++run) sum[r] += s[run];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = a.offset == nullptr ? Q::set(-8 * sum[r]) : Q::zero();
    }
    for (std::size_t l = 0; l < lines; ++l) {
      const std::size_t line = (g * lines + l) * kLine;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        typename Q::Codes low, high;
        Q::nibbles(w + line + static_cast<std::size_t>(n) * stride, low, high);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const std::uint8_t* x = a.x + (i + static_cast<std::size_t>(r)) * a.ldx + line / 8;
          acc[r][n] = Q::dot(Q::dot(acc[r][n], Q::spread(x), low), Q::spread(x + 4), high);
        }
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const std::size_t at = ((first / kTile + static_cast<std::size_t>(n)) * groups + g) * kTile;
      const Acc mult = Q::load_u8(a.mult + at);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        total[r][n] = Q::add(total[r][n], Q::mul(acc[r][n], mult));
        if (a.offset != nullptr) {
          total[r][n] = Q::add(total[r][n], Q::mul(Q::set(sum[r]), Q::load_i8(a.offset + at)));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      scale_sums<V, Q>(a, i + static_cast<std::size_t>(r), first + static_cast<std::size_t>(n) * kTile, total[r][n],
                       sums + static_cast<std::size_t>(r) * kPanel + static_cast<std::size_t>(n) * kTile);
    }
  }
}

// One panel of `tiles` tiles for all rows, in register tiles of at most kMost rows.
template <class V, class Q, int N, bool kNibbles>
inline void panel_tiles(const MatmulQ& a, std::size_t first, const std::byte* w, std::size_t stride, float* sums) {
  constexpr int kMost = kNibbles ? Q::kNibbleRows : Q::kRows;
  const auto rows = [&]<int R>(std::size_t i) {
    float* out = sums + i * kPanel;
    if constexpr (kNibbles) {
      tile_i4<V, Q, R, N>(a, i, first, w, stride, out);
    } else {
      tile_i8<V, Q, R, N>(a, i, first, w, stride, out);
    }
  };
  std::size_t i = 0;
  for (; i + kMost <= a.m; i += kMost) rows.template operator()<kMost>(i);
  const std::size_t left = a.m - i;
  if constexpr (kMost > 5) {
    if (left == 5) return rows.template operator()<5>(i);
  }
  if constexpr (kMost > 4) {
    if (left == 4) return rows.template operator()<4>(i);
  }
  if constexpr (kMost > 3) {
    if (left == 3) return rows.template operator()<3>(i);
  }
  if constexpr (kMost > 2) {
    if (left == 2) return rows.template operator()<2>(i);
  }
  if (left == 1) rows.template operator()<1>(i);
}

template <class V, class Q, bool kNibbles>
inline void panel(const MatmulQ& a, std::size_t first, std::size_t tiles, const std::byte* w, std::size_t stride,
                  float* sums) {
  if constexpr (V::kTileVectors > 1) {
    if (tiles == 4) return panel_tiles<V, Q, 4, kNibbles>(a, first, w, stride, sums);
  }
  for (std::size_t t = 0; t < tiles; ++t) {
    panel_tiles<V, Q, 1, kNibbles>(a, first + t * kTile, w + t * stride, stride, sums + t * kTile);
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
  auto* sums = static_cast<float*>(a.scratch);
  auto* unpacked = static_cast<std::byte*>(a.scratch) + a.m * kPanel * sizeof(float);
  const std::size_t stride = tile_bytes(a.dtype, a.k);
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    const std::size_t tiles = round_up(n, kTile) / kTile;
    const std::byte* w = static_cast<const std::byte*>(a.w) + first / kTile * stride;
    if (a.dtype == DType::kI8) {
      panel<V, Q, false>(a, first, tiles, w, stride, sums);
    } else if (a.m <= Q::kNibbleRows) {
      panel<V, Q, true>(a, first, tiles, w, stride, sums);
    } else {
      for (std::size_t t = 0; t < tiles; ++t) {
        unpack_tile<Q>(a, first / kTile + t, w + t * stride, unpacked + 2 * t * stride);
      }
      panel<V, Q, false>(a, first, tiles, unpacked, 2 * stride, sums);
    }
    for (std::size_t i = 0; i < a.m; ++i) finish_row<V>(a, i, first, sums + i * kPanel, n);
  }
}

}  // namespace gpt2::kernels::simd
