// How keys and values lie in a block of the cache. A block holds kBlock positions of one sequence for all layers and
// heads, each head as kernels/attention.h's HeadLayout says.
//
// Views only: who owns a block, and which sequences share it, is the engine's business.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "model/weights.h"

namespace gpt2::model {

struct Adapter;

struct CacheShape {
  std::size_t layers, heads;
  kernels::HeadLayout head;

  explicit CacheShape(const Config& c) : layers(c.layers), heads(c.heads), head{c.cache, c.head_dim()} {}

  std::size_t block_bytes() const { return layers * heads * head.bytes(); }
  // Where a layer and head begin in a block, in bytes; each begins on a cache line.
  std::size_t offset(std::size_t layer, std::size_t h) const { return (layer * heads + h) * head.bytes(); }
};

// The next `count` tokens of one sequence; they go to positions start .. start + count, for which blocks must be there.
// Positions before `start` hold keys and values already. Blocks are 64-byte aligned; the pass writes only slots of the
// new positions, so that blocks before them may be shared.
struct Slice {
  std::byte* const* blocks;  // pointers to the sequence's blocks, position p in blocks[p / kBlock]
  std::size_t start;
  const std::int32_t* ids;
  std::size_t count;
  const Adapter* adapter = nullptr;  // what is added to its rows, of this model; or nothing
};

}  // namespace gpt2::model
