#include "engine/cache.h"

#include <cstring>

namespace gpt2 {

using kernels::kBlock;

Cache::Cache(const Cache& other) : block_bytes_(other.block_bytes_) {
  reserve(other.length_);
  for (std::size_t b = 0; b < blocks_.size(); ++b) std::memcpy(pointers_[b], other.pointers_[b], block_bytes_);
  length_ = other.length_;
}

void Cache::reserve(std::size_t length) {
  const std::size_t want = (length + kBlock - 1) / kBlock;
  if (want <= blocks_.size()) return;
  blocks_.reserve(want);
  pointers_.reserve(want);
  while (blocks_.size() < want) {
    blocks_.emplace_back(block_bytes_);
    pointers_.push_back(blocks_.back().data());
  }
}

}  // namespace gpt2
