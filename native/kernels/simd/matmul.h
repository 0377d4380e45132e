// matmul.h for vectors: streaming rows of W for a few rows of x, packed panels for many, dot products for [n, k]
// weights.
#pragma once
#include "kernels/matmul.h"
#include "kernels/simd/math.h"
#include "kernels/simd/tile.h"

namespace gpt2::kernels::simd {

// From here on copying a panel of W costs less than reading it again for each group of rows.
inline constexpr std::size_t kPackRows = 12;

// y[first + j] = act(sum[j] + bias) or y += ..., for one row and `n` columns from `first`.
template <class V>
inline void finish_row(const Matmul& a, std::size_t row, std::size_t first, const float* sum, std::size_t n) {
  float* y = a.y + row * a.ldy + first;
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    typename V::F v = V::load(sum + j, m);
    if (a.bias != nullptr) v = V::add(v, V::load(a.bias + first + j, m));
    if (a.accumulate) v = V::add(V::load(y + j, m), v);
    V::store(y + j, v, m);
  }
  if (!a.accumulate) activate<V>(a.activation, y, n);
}

// sum[r][j] += sum over U rows of W; the chain of each sum runs over t upwards.
template <class V, class W, int R, int U>
inline void stream_rows(const float* x, std::size_t ldx, const W* w, std::size_t ldw, float* sum, std::size_t lds,
                        std::size_t n) {
  using F = typename V::F;
  constexpr std::size_t kLine = 64 / sizeof(W);
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const bool whole = n - j >= V::kWidth;
    const typename V::Mask m = V::mask(n - j);
    F acc[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float* s = sum + static_cast<std::size_t>(r) * lds + j;
      acc[r] = whole ? V::load(s) : V::load(s, m);
    }
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      const W* at = w + static_cast<std::size_t>(u) * ldw + j;
      // The next rows lie far from these; ask for them early. Beyond the end a prefetch is harmless.
      if (j % kLine == 0) __builtin_prefetch(at + U * ldw);
      const F row = whole ? V::load(at) : V::load(at, m);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        acc[r] = V::fma(V::set(x[static_cast<std::size_t>(r) * ldx + static_cast<std::size_t>(u)]), row, acc[r]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* s = sum + static_cast<std::size_t>(r) * lds + j;
      if (whole) {
        V::store(s, acc[r]);
      } else {
        V::store(s, acc[r], m);
      }
    }
  }
}

template <class V, class W, int R>
inline void stream(const Matmul& a, std::size_t row, std::size_t first, std::size_t n, float* sum) {
  constexpr int kUnroll = 8;
  const W* w = static_cast<const W*>(a.w) + first;
  const float* x = a.x + row * a.ldx;
  for (std::size_t j = 0; j < R * n; ++j) sum[j] = 0.0f;
  std::size_t t = 0;
  for (; t + kUnroll <= a.k; t += kUnroll) stream_rows<V, W, R, kUnroll>(x + t, a.ldx, w + t * a.ldw, a.ldw, sum, n, n);
  for (; t < a.k; ++t) stream_rows<V, W, R, 1>(x + t, a.ldx, w + t * a.ldw, a.ldw, sum, n, n);
  for (std::size_t r = 0; r < R; ++r) finish_row<V>(a, row + r, first, sum + r * n, n);
}

// Few rows: W is read once, in long runs, for up to four rows of x together. The sums live in the scratch.
template <class V, class W>
inline void matmul_kn_stream(const Matmul& a) {
  constexpr std::size_t kRows = 4;
  constexpr std::size_t kColumns = kDepth * kPanel / kRows;
  for (std::size_t first = a.first; first < a.last; first += kColumns) {
    const std::size_t n = a.last - first < kColumns ? a.last - first : kColumns;
    std::size_t row = 0;
    for (; row + kRows <= a.m; row += kRows) stream<V, W, 4>(a, row, first, n, a.scratch);
    if (a.m - row == 3) stream<V, W, 3>(a, row, first, n, a.scratch);
    if (a.m - row == 2) stream<V, W, 2>(a, row, first, n, a.scratch);
    if (a.m - row == 1) stream<V, W, 1>(a, row, first, n, a.scratch);
  }
}

// Copies W[t0 .. t0+depth, first .. first+n] to rows of kPanel float32.
template <class V, class W>
inline void pack(const Matmul& a, std::size_t t0, std::size_t depth, std::size_t first, std::size_t n, float* panel) {
  const W* w = static_cast<const W*>(a.w) + t0 * a.ldw + first;
  for (std::size_t t = 0; t < depth; ++t) {
    for (std::size_t j = 0; j < n; j += V::kWidth) {
      if (n - j >= V::kWidth) {
        V::store(panel + t * kPanel + j, V::load(w + t * a.ldw + j));
      } else {
        V::store(panel + t * kPanel + j, V::load(w + t * a.ldw + j, V::mask(n - j)));
      }
    }
  }
}

// Many rows: panel by panel, block of k by block of k; the sums of all rows wait in the scratch between blocks.
template <class V, class W>
inline void matmul_kn_packed(const Matmul& a) {
  float* panel = a.scratch;
  float* sums = a.scratch + kDepth * kPanel;
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    for (std::size_t t = 0; t < a.k; t += kDepth) {
      const std::size_t depth = a.k - t < kDepth ? a.k - t : kDepth;
      pack<V, W>(a, t, depth, first, n, panel);
      const Tile whole = {a.x + t, a.ldx, panel, kPanel, sums, kPanel, depth, 0, t > 0};
      multiply<V>(whole, a.m, n);
    }
    for (std::size_t i = 0; i < a.m; ++i) finish_row<V>(a, i, first, sums + i * kPanel, n);
  }
}

template <class V, class W>
inline void matmul_kn_as(const Matmul& a) {
  if (a.m < kPackRows) return matmul_kn_stream<V, W>(a);
  matmul_kn_packed<V, W>(a);
}

template <class V>
void matmul_kn(const Matmul& a) {
  if (a.dtype == DType::kF32) return matmul_kn_as<V, float>(a);
  matmul_kn_as<V, std::uint16_t>(a);
}

// R rows of x times N rows of W, each product a dot product with one chain per lane.
template <class V, class W, int R, int N>
inline void dots(const Matmul& a, std::size_t row, std::size_t column) {
  using F = typename V::F;
  const float* x = a.x + row * a.ldx;
  const W* w = static_cast<const W*>(a.w) + column * a.ldw;
  F acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[r][n] = V::zero();
  }
  const auto step = [&](std::size_t t, auto load_x, auto load_w) {
    F in[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) in[r] = load_x(x + static_cast<std::size_t>(r) * a.ldx + t);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F weight = load_w(w + static_cast<std::size_t>(n) * a.ldw + t);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][n] = V::fma(in[r], weight, acc[r][n]);
    }
  };
  std::size_t t = 0;
  for (; t + V::kWidth <= a.k; t += V::kWidth) {
    step(
        t, [](const float* p) { return V::load(p); }, [](const W* p) { return V::load(p); });
  }
  if (t < a.k) {
    const typename V::Mask m = V::mask(a.k - t);
    step(
        t, [m](const float* p) { return V::load(p, m); }, [m](const W* p) { return V::load(p, m); });
  }
  for (int r = 0; r < R; ++r) {
    float sum[N];
    for (int n = 0; n < N; ++n) sum[n] = sum_lanes<V>(acc[r][n]);
    finish_row<V>(a, row + static_cast<std::size_t>(r), column, sum, N);
  }
}

template <class V, class W, int R>
inline void dot_rows(const Matmul& a, std::size_t row, std::size_t first, std::size_t last) {
  std::size_t j = first;
  for (; j + 4 <= last; j += 4) dots<V, W, R, 4>(a, row, j);
  for (; j < last; ++j) dots<V, W, R, 1>(a, row, j);
}

// W goes by in strips that stay in the first-level cache while all rows of x pass over them.
template <class V, class W>
inline void matmul_nk_as(const Matmul& a) {
  constexpr std::size_t kRows = V::kWidth == 16 ? 4 : 2;
  constexpr std::size_t kStrip = 16;
  for (std::size_t first = a.first; first < a.last; first += kStrip) {
    const std::size_t last = a.last - first < kStrip ? a.last : first + kStrip;
    std::size_t row = 0;
    for (; row + kRows <= a.m; row += kRows) dot_rows<V, W, static_cast<int>(kRows)>(a, row, first, last);
    for (; row < a.m; ++row) dot_rows<V, W, 1>(a, row, first, last);
  }
}

template <class V>
void matmul_nk(const Matmul& a) {
  if (a.dtype == DType::kF32) return matmul_nk_as<V, float>(a);
  matmul_nk_as<V, std::uint16_t>(a);
}

}  // namespace gpt2::kernels::simd
