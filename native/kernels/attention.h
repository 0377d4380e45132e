// Causal attention of some rows of one sequence and one head over the cached keys and values.
//
//   q      [m, D]  float32, row stride ldq; row i is the query at position start + i
//   blocks         pointers to blocks of kBlock positions; at blocks[b] + offset lies one layer's head (HeadLayout)
//   out    [m, D]  float32, row stride ldo, overlaps nothing
//   scratch        attention_scratch(start + m) floats, 64-byte aligned, one per thread
//
// Maths:   s_j = scale * sum_d q[d] k_j[d]; p_j = exp(s_j - max s); out = sum_j p_j v_j / sum_j p_j,  j <= start + i
//          With an int8 cache k_j = kscale_j * (integers): the sums run over the integers, s_j = (scale * kscale_j) *
//          sum, and p_j * vscale_j stands for p_j in the sum over values.
// Order:   sums over d and over j run upwards in one chain (the sum of p: kLanes lanes, then a fixed tree),
//          whatever m, start, the place of the blocks and the instruction set are: a step with a cache gives the bits
//          of the full forward pass.
// Error:   scores as matmul.h with k = D; exp within 2 ulp; the sum over j as matmul.h with k = start + m; the cache's
//          own rounding comes before (write_head).
// Values of positions beyond a row's own are never read into its sums.
#pragma once
#include "kernels/types.h"

namespace gpt2::kernels {

// Query rows that share one pass over the cache: as many as the register tile has rows.
inline constexpr std::size_t kQueryRows = 6;

// How one head of one layer lies in a block: keys [D, kBlock] (so that scores need no horizontal sum), values
// [kBlock, Dv] with Dv = D rounded up to kLanes, and for int8 the scales of the keys and of the values, [kBlock]
// float32 each. All offsets in bytes.
struct HeadLayout {
  DType dtype;
  std::size_t head_dim;

  constexpr std::size_t element() const { return dtype == DType::kF32 ? 4 : dtype == DType::kBF16 ? 2 : 1; }
  constexpr std::size_t value_stride() const { return round_up(head_dim, kLanes); }
  constexpr std::size_t values() const { return round_up(head_dim * kBlock * element(), kLine); }
  constexpr std::size_t key_scales() const { return values() + value_stride() * kBlock * element(); }
  constexpr std::size_t value_scales() const { return key_scales() + kBlock * sizeof(float); }
  constexpr std::size_t bytes() const {
    return dtype == DType::kI8 ? value_scales() + kBlock * sizeof(float) : key_scales();
  }
};

// Stores key and value [D] at `slot` of a head. bfloat16 rounds to nearest even; int8 to 255 steps of max|v| / 127.
// Error: 2^-8 |v| (bfloat16), max|v| / 254 (1 + 2^-20) (int8).
void write_head(const HeadLayout& layout, std::byte* head, std::size_t slot, const float* key, const float* value);

struct Attention {
  const float* q;
  std::size_t ldq;
  const std::byte* const* blocks;
  std::size_t offset;
  HeadLayout layout;
  float* out;
  std::size_t ldo;
  std::size_t m, start;
  float scale;
  float* scratch;
};
using AttentionFn = void (*)(const Attention&);

inline constexpr std::size_t attention_scratch(std::size_t positions) {
  return kQueryRows * round_up(positions, kBlock);
}

}  // namespace gpt2::kernels
