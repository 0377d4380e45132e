#include "model/cache.h"

#include <cstring>

#include "kernels/attention.h"

namespace gpt2::model {

using kernels::kBlock;

Cache::Cache(const Config& c)
    : positions_(c.positions),
      heads_(c.heads),
      head_dim_(c.head_dim()),
      head_floats_(kernels::round_up(kernels::block_floats(c.head_dim()), 16)),  // each head on a cache line
      block_floats_(c.layers * c.heads * head_floats_) {}

Cache::Cache(const Cache& other)
    : positions_(other.positions_),
      heads_(other.heads_),
      head_dim_(other.head_dim_),
      head_floats_(other.head_floats_),
      block_floats_(other.block_floats_) {
  reserve(other.length_);
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    std::memcpy(pointers_[b], other.pointers_[b], block_floats_ * sizeof(float));
  }
  length_ = other.length_;
}

void Cache::reserve(std::size_t length) {
  const std::size_t want = (length + kBlock - 1) / kBlock;
  if (want <= blocks_.size()) return;
  blocks_.reserve(want);
  pointers_.reserve(want);
  while (blocks_.size() < want) {
    blocks_.emplace_back(block_floats_);
    pointers_.push_back(blocks_.back().data());
  }
}

void Cache::write(std::size_t layer, std::size_t head, std::size_t position, const float* key, const float* value) {
  float* block = pointers_[position / kBlock] + offset(layer, head);
  const std::size_t slot = position % kBlock;
  for (std::size_t d = 0; d < head_dim_; ++d) block[d * kBlock + slot] = key[d];
  std::memcpy(block + head_dim_ * kBlock + slot * head_dim_, value, head_dim_ * sizeof(float));
}

}  // namespace gpt2::model
