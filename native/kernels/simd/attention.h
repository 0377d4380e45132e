// attention.h for vectors: scores and the sum over values are both the register tile of tile.h.
#pragma once
#include "kernels/attention.h"
#include "kernels/simd/math.h"
#include "kernels/simd/tile.h"

namespace gpt2::kernels::simd {

// p[j] = exp(scale p[j] - max) for j < n; returns 1 / sum of them.
template <class V>
inline float softmax(float* p, std::size_t n, float scale) {
  using F = typename V::F;
  const F low = V::set(-__builtin_inff());
  F top = low;
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    const F s = V::mul(V::load(p + j, m), V::set(scale));
    V::store(p + j, s, m);
    top = V::max(V::select(m, s, low), top);
  }
  const F shift = V::set(max_lanes<V>(top));
  F total = V::zero();
  for (std::size_t j = 0; j < n; j += V::kWidth) {
    const typename V::Mask m = V::mask(n - j);
    const F e = exp<V>(V::sub(V::load(p + j, m), shift));
    V::store(p + j, e, m);
    total = V::add(total, V::select(m, e, V::zero()));
  }
  return 1.0f / sum_lanes<V>(total);
}

// out[rows, D] (+)= p[rows, from..to] . values, continuing the chains that begin at position 0.
template <class V>
inline void add_values(const Attention& a, const float* p, std::size_t ldp, float* out, std::size_t rows,
                       std::size_t from, std::size_t to) {
  for (std::size_t j = from; j < to;) {
    const std::size_t in_block = j % kBlock;
    const std::size_t left = to - j < kBlock - in_block ? to - j : kBlock - in_block;
    const float* values = a.blocks[j / kBlock] + a.offset + a.head_dim * kBlock + in_block * a.head_dim;
    const Tile t = {p + j, ldp, values, a.head_dim, out, a.ldo, left, 0, j > 0};
    multiply<V>(t, rows, a.head_dim);
    j += left;
  }
}

template <class V>
inline void attend_rows(const Attention& a, std::size_t first, std::size_t rows) {
  const std::size_t seen = a.start + first + rows;  // by the last row
  const std::size_t ldp = round_up(seen, kBlock);
  const float* q = a.q + first * a.ldq;
  float* out = a.out + first * a.ldo;
  for (std::size_t j = 0; j < seen; j += kBlock) {
    const std::size_t columns = seen - j < kBlock ? round_up(seen - j, V::kWidth) : kBlock;
    const Tile t = {q, a.ldq, a.blocks[j / kBlock] + a.offset, kBlock, a.scratch + j, ldp, a.head_dim, 0, false};
    multiply<V>(t, rows, columns);
  }
  float inverse[kQueryRows];
  for (std::size_t r = 0; r < rows; ++r) {
    inverse[r] = softmax<V>(a.scratch + r * ldp, a.start + first + r + 1, a.scale);
  }
  const std::size_t common = a.start + first + 1;  // positions that every row of the tile sees
  add_values<V>(a, a.scratch, ldp, out, rows, 0, common);
  for (std::size_t r = 1; r < rows; ++r) {
    add_values<V>(a, a.scratch + r * ldp, ldp, out + r * a.ldo, 1, common, common + r);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t d = 0; d < a.head_dim; ++d) out[r * a.ldo + d] *= inverse[r];
  }
}

template <class V>
void attention(const Attention& a) {
  for (std::size_t i = 0; i < a.m; i += kQueryRows) attend_rows<V>(a, i, a.m - i < kQueryRows ? a.m - i : kQueryRows);
}

}  // namespace gpt2::kernels::simd
