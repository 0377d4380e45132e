// attention.h for vectors: scores and the sum over values are both the register tile of tile.h.
#pragma once
#include "kernels/attention.h"
#include "kernels/simd/math.h"
#include "kernels/simd/tile.h"

namespace gpt2::kernels::simd {

// The scales of an int8 cache's keys or values at position j, to multiply by; other caches have none.
inline const float* scales_at(const Attention& a, std::size_t at, std::size_t j) {
  return reinterpret_cast<const float*>(a.blocks[j / kBlock] + a.offset + at) + j % kBlock;
}

// p[j] = exp(scale p[j] - max) for j < n; returns 1 / sum of them. With an int8 cache p[j] is first multiplied by the
// scale of key j, and in the end by the scale of value j. Whole vectors are read and written, and the mask keeps what
// lies beyond n out of the maximum and the sum alone: what was just stored under a mask would have to reach the cache
// before it could be read again. There is room, and nobody reads it: p has whole blocks, and so have the scales.
template <class V, bool kScaled>
inline float softmax(const Attention& a, float* p, std::size_t n) {
  using F = typename V::F;
  const F low = V::set(-__builtin_inff()), scale = V::set(a.scale);
  F top = low;
  for (std::size_t j = 0; j < n; j += kLanes) {
    const typename V::Mask m = V::mask(n - j);
    F factor = scale;
    if constexpr (kScaled) factor = V::mul(scale, V::load(scales_at(a, a.layout.key_scales(), j)));
    const F s = V::mul(V::load(p + j), factor);
    V::store(p + j, s);
    top = V::max(V::select(m, s, low), top);
  }
  const F shift = V::set(max_lanes<V>(top));
  F total = V::zero();
  for (std::size_t j = 0; j < n; j += kLanes) {
    const typename V::Mask m = V::mask(n - j);
    const F e = exp<V>(V::sub(V::load(p + j), shift));
    if constexpr (kScaled) {
      V::store(p + j, V::mul(e, V::load(scales_at(a, a.layout.value_scales(), j))));
    } else {
      V::store(p + j, e);
    }
    total = V::add(total, V::select(m, e, V::zero()));
  }
  return 1.0f / sum_lanes<V>(total);
}

// out[rows, D] (+)= p[rows, from..to] . values, continuing the chains that begin at position 0.
template <class V, class E>
inline void add_values(const Attention& a, const float* p, std::size_t ldp, float* out, std::size_t rows,
                       std::size_t from, std::size_t to) {
  const std::size_t stride = a.layout.value_stride();
  for (std::size_t j = from; j < to;) {
    const std::size_t in_block = j % kBlock;
    const std::size_t left = to - j < kBlock - in_block ? to - j : kBlock - in_block;
    const auto* values = reinterpret_cast<const E*>(a.blocks[j / kBlock] + a.offset + a.layout.values());
    const Rows<E> b = {values + in_block * stride, stride, kLanes};
    const Tile<Rows<E>> t = {p + j, ldp, b, out, a.ldo, left, 0, j > 0};
    multiply<V>(t, rows, a.layout.head_dim);
    j += left;
  }
}

template <class V, class E>
inline void attend_rows(const Attention& a, std::size_t first, std::size_t rows) {
  constexpr bool kScaled = sizeof(E) == 1;
  const std::size_t seen = a.start + first + rows;  // by the last row
  const std::size_t ldp = round_up(seen, kBlock);
  const float* q = a.q + first * a.ldq;
  float* out = a.out + first * a.ldo;
  for (std::size_t j = 0; j < seen; j += kBlock) {
    const std::size_t columns = seen - j < kBlock ? round_up(seen - j, kLanes) : kBlock;
    const Rows<E> b = {reinterpret_cast<const E*>(a.blocks[j / kBlock] + a.offset), kBlock, kLanes};
    const Tile<Rows<E>> t = {q, a.ldq, b, a.scratch + j, ldp, a.layout.head_dim, 0, false};
    multiply<V>(t, rows, columns);
  }
  float inverse[kQueryRows];
  for (std::size_t r = 0; r < rows; ++r)
    inverse[r] = softmax<V, kScaled>(a, a.scratch + r * ldp, a.start + first + r + 1);
  const std::size_t common = a.start + first + 1;  // positions that every row of the tile sees
  add_values<V, E>(a, a.scratch, ldp, out, rows, 0, common);
  for (std::size_t r = 1; r < rows; ++r) {
    add_values<V, E>(a, a.scratch + r * ldp, ldp, out + r * a.ldo, 1, common, common + r);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t d = 0; d < a.layout.head_dim; ++d) out[r * a.ldo + d] *= inverse[r];
  }
}

template <class V, class E>
inline void attention_over(const Attention& a) {
  for (std::size_t i = 0; i < a.m; i += kQueryRows) {
    attend_rows<V, E>(a, i, a.m - i < kQueryRows ? a.m - i : kQueryRows);
  }
}

template <class V>
void attention(const Attention& a) {
  if (a.layout.dtype == DType::kF32) return attention_over<V, float>(a);
  if (a.layout.dtype == DType::kBF16) return attention_over<V, std::uint16_t>(a);
  attention_over<V, std::int8_t>(a);
}

}  // namespace gpt2::kernels::simd
