// The memory behind the block indices of the scheduler, allocated when a block is used for the first time and then
// kept. One thread at a time.
#pragma once
#include <atomic>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "scheduler/block_pool.h"

namespace gpt2 {

class BlockMemory {
 public:
  BlockMemory(std::size_t blocks, std::size_t block_bytes) : block_bytes_(block_bytes), blocks_(blocks) {}

  std::size_t block_bytes() const { return block_bytes_; }
  // Of all blocks that were ever used.
  std::size_t bytes() const { return allocated_.load(std::memory_order_relaxed) * block_bytes_; }

  // 64-byte aligned. Throws std::bad_alloc, and then has changed nothing.
  std::byte* get(scheduler::BlockId b) {
    if (blocks_[b].data() == nullptr) {
      blocks_[b] = AlignedBytes(block_bytes_);
      allocated_.fetch_add(1, std::memory_order_relaxed);
    }
    return blocks_[b].data();
  }

  void copy(scheduler::BlockId from, scheduler::BlockId to) { std::memcpy(get(to), get(from), block_bytes_); }

 private:
  std::size_t block_bytes_;
  std::vector<AlignedBytes> blocks_;
  std::atomic<std::size_t> allocated_{0};
};

}  // namespace gpt2
