// The keys and values of one sequence, in blocks of kBlock positions that are allocated as the sequence grows.
//
// A block holds, for each layer and head, keys [D, kBlock] then values [kBlock, D] (kernels/attention.h). Copying a
// Cache copies the blocks: the copy goes on independently. Knows nothing of tokens.
#pragma once
#include <memory>
#include <vector>

#include "base/aligned.h"
#include "model/weights.h"

namespace gpt2::model {

class Cache {
 public:
  explicit Cache(const Config& config);
  Cache(const Cache& other);
  Cache(Cache&&) noexcept = default;
  Cache& operator=(Cache&&) noexcept = default;
  Cache& operator=(const Cache& other) = delete;

  std::size_t length() const { return length_; }       // positions that hold keys and values
  std::size_t capacity() const { return positions_; }  // n_positions
  std::size_t bytes() const { return blocks_.size() * block_floats_ * sizeof(float); }

  // Room for `length` positions. Throws std::bad_alloc and then has changed nothing but spare room.
  void reserve(std::size_t length);
  void set_length(std::size_t length) { length_ = length; }  // after a forward pass has filled them, or to forget

  const float* const* blocks() const { return const_cast<const float* const*>(pointers_.data()); }
  std::size_t offset(std::size_t layer, std::size_t head) const { return (layer * heads_ + head) * head_floats_; }

  // Stores key and value [D] of one position of one head.
  void write(std::size_t layer, std::size_t head, std::size_t position, const float* key, const float* value);

 private:
  std::size_t positions_, heads_, head_dim_, head_floats_, block_floats_;
  std::size_t length_ = 0;
  std::vector<AlignedFloats> blocks_;
  std::vector<float*> pointers_;
};

}  // namespace gpt2::model
