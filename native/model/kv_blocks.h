// How keys and values lie in a block of the cache, and how one position is written there. A block holds kBlock
// positions of one sequence for all layers and heads: for each layer and head, keys [D, kBlock] then values [kBlock, D]
// (kernels/attention.h).
//
// Views only: who owns a block, and which sequences share it, is the engine's business.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/attention.h"
#include "model/weights.h"

namespace gpt2::model {

struct CacheShape {
  std::size_t layers, heads, head_dim;

  explicit CacheShape(const Config& c) : layers(c.layers), heads(c.heads), head_dim(c.head_dim()) {}

  // Bytes of one layer and head of a block; each begins on a cache line.
  std::size_t head_bytes() const { return kernels::round_up(kernels::block_floats(head_dim) * sizeof(float), 64); }
  std::size_t block_bytes() const { return layers * heads * head_bytes(); }
  // Where a layer and head begin in a block, in bytes.
  std::size_t offset(std::size_t layer, std::size_t head) const { return (layer * heads + head) * head_bytes(); }

  // Stores key and value [D] of one slot (position % kBlock) of a block.
  void write(void* block, std::size_t layer, std::size_t head, std::size_t slot, const float* key,
             const float* value) const {
    auto* at = reinterpret_cast<float*>(static_cast<char*>(block) + offset(layer, head));
    for (std::size_t d = 0; d < head_dim; ++d) at[d * kernels::kBlock + slot] = key[d];
    std::memcpy(at + head_dim * kernels::kBlock + slot * head_dim, value, head_dim * sizeof(float));
  }
};

// The next `count` tokens of one sequence; they go to positions start .. start + count, for which blocks must be there.
// Positions before `start` hold keys and values already. Blocks are 64-byte aligned; the pass writes only slots of the
// new positions, so that blocks before them may be shared.
struct Slice {
  void* const* blocks;  // pointers to the sequence's blocks, position p in blocks[p / kBlock]
  std::size_t start;
  const std::int32_t* ids;
  std::size_t count;
};

}  // namespace gpt2::model
