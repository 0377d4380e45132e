// The blocks of one sequence, allocated as it grows. Copying a Cache copies them: the copy goes on independently. Knows
// nothing of tokens, nor of what lies in a block.
#pragma once
#include <vector>

#include "base/aligned.h"
#include "model/kv_blocks.h"

namespace gpt2 {

class Cache {
 public:
  explicit Cache(const model::CacheShape& shape) : block_bytes_(shape.block_bytes()) {}
  Cache(const Cache& other);
  Cache(Cache&&) noexcept = default;
  Cache& operator=(Cache&&) noexcept = default;
  Cache& operator=(const Cache& other) = delete;

  std::size_t length() const { return length_; }  // positions that hold keys and values
  std::size_t bytes() const { return blocks_.size() * block_bytes_; }

  // Room for `length` positions. Throws std::bad_alloc and then has changed nothing but spare room.
  void reserve(std::size_t length);
  void set_length(std::size_t length) { length_ = length; }  // after a forward pass has filled them, or to forget

  std::byte* const* blocks() const { return pointers_.data(); }

 private:
  std::size_t block_bytes_;
  std::size_t length_ = 0;
  std::vector<AlignedBytes> blocks_;
  std::vector<std::byte*> pointers_;
};

}  // namespace gpt2
