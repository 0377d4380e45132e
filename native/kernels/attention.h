// Causal attention of some rows of one sequence and one head over the cached keys and values.
//
//   q      [m, D]  float32, row stride ldq; row i is the query at position start + i
//   blocks         pointers to blocks of kBlock positions; at blocks[b] + offset stand the keys as [D, kBlock] (so that
//                  scores need no horizontal sum), then the values as [kBlock, D], of this layer and head
//   out    [m, D]  float32, row stride ldo, overlaps nothing
//   scratch        attention_scratch(start + m) floats, 64-byte aligned, one per thread
//
// Maths:   s_j = scale * sum_d q[d] k_j[d]; p_j = exp(s_j - max s); out = sum_j p_j v_j / sum_j p_j,  j <= start + i
// Order:   sums over d and over j run upwards in one chain (the sum of p: one chain per vector lane, then a fixed
// tree),
//          whatever m, start and the place of the blocks are: a step with a cache gives the bits of the full forward
//          pass.
// Error:   scores as matmul.h with k = D; exp within 2 ulp; the sum over j as matmul.h with k = start + m.
// Values of positions beyond a row's own are never read into its sums.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

// Query rows that share one pass over the cache: as many as the register tile has rows.
inline constexpr std::size_t kQueryRows = 6;

struct Attention {
  const float* q;
  std::size_t ldq;
  const float* const* blocks;
  std::size_t offset;
  float* out;
  std::size_t ldo;
  std::size_t m, start, head_dim;
  float scale;
  float* scratch;
};
using AttentionFn = void (*)(const Attention&);

inline constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }
inline constexpr std::size_t attention_scratch(std::size_t positions) {
  return kQueryRows * round_up(positions, kBlock);
}
inline constexpr std::size_t block_floats(std::size_t head_dim) { return 2 * head_dim * kBlock; }

}  // namespace gpt2::kernels
