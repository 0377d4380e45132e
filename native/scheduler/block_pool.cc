#include "scheduler/block_pool.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <stdexcept>

namespace gpt2::scheduler {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace

BlockPool::BlockPool(std::size_t blocks, std::uint64_t hash_mask)
    : blocks_(blocks),
      tokens_(blocks * kBlockTokens),
      buckets_(std::bit_ceil(2 * blocks + 1), kNoBlock),
      hash_mask_(hash_mask) {
  free_.reserve(blocks);
  for (std::size_t b = blocks; b > 0; --b) free_.push_back(static_cast<BlockId>(b - 1));
}

BlockId BlockPool::take() {
  BlockId b;
  if (!free_.empty()) {
    b = free_.back();
    free_.pop_back();
  } else if (oldest_ != kNoBlock) {
    b = oldest_;
    unlink(b);
    forget(b);
  } else {
    return kNoBlock;
  }
  blocks_[b].references = 1;
  return b;
}

void BlockPool::share(BlockId b) {
  if (blocks_[b].references++ == 0) unlink(b);
}

void BlockPool::release(BlockId b) {
  Block& block = blocks_[b];
  if (--block.references > 0) return;
  if (block.content == 0) {
    free_.push_back(b);
    return;
  }
  block.older = newest_;
  (newest_ == kNoBlock ? oldest_ : blocks_[newest_].newer) = b;
  newest_ = b;
  ++cached_;
}

void BlockPool::unlink(BlockId b) {
  Block& block = blocks_[b];
  (block.older == kNoBlock ? oldest_ : blocks_[block.older].newer) = block.newer;
  (block.newer == kNoBlock ? newest_ : blocks_[block.newer].older) = block.older;
  block.older = block.newer = kNoBlock;
  --cached_;
}

void BlockPool::forget(BlockId b) {
  Block& block = blocks_[b];
  BlockId* at = &bucket(block.hash);
  while (*at != b) at = &blocks_[*at].next_in_bucket;
  *at = block.next_in_bucket;
  block.next_in_bucket = kNoBlock;
  block.content = block.before = block.hash = 0;
  block.space.reset();
}

std::uint64_t BlockPool::hash(ContentId before, const Space& space, const std::int32_t* tokens) const {
  std::uint64_t h = mix(before != 0 ? before : ~std::hash<std::string>()(*space));
  for (std::size_t i = 0; i < kBlockTokens; ++i)
    h = mix(h + 0x9e3779b97f4a7c15u + static_cast<std::uint32_t>(tokens[i]));
  return h & hash_mask_;
}

bool BlockPool::holds(BlockId b, std::uint64_t hash, ContentId before, const Space& space,
                      const std::int32_t* tokens) const {
  const Block& block = blocks_[b];
  return block.hash == hash && block.before == before && (before != 0 || *block.space == *space) &&
         std::equal(tokens, tokens + kBlockTokens, tokens_.data() + b * kBlockTokens);
}

BlockPool::Found BlockPool::find(ContentId before, const Space& space, const std::int32_t* tokens) const {
  const std::uint64_t h = hash(before, space, tokens);
  BlockId b = buckets_[h & (buckets_.size() - 1)];
  while (b != kNoBlock && !holds(b, h, before, space, tokens)) b = blocks_[b].next_in_bucket;
  return b == kNoBlock ? Found{} : Found{b, blocks_[b].content};
}

BlockPool::Found BlockPool::publish(BlockId b, ContentId before, const Space& space, const std::int32_t* tokens) {
  if (const Found found = find(before, space, tokens); found.block != kNoBlock) return found;
  Block& block = blocks_[b];
  std::copy_n(tokens, kBlockTokens, tokens_.data() + b * kBlockTokens);
  block.content = next_content_++;
  block.before = before;
  if (before == 0) block.space = space;
  block.hash = hash(before, space, tokens);
  BlockId& first = bucket(block.hash);
  block.next_in_bucket = first;
  first = b;
  return {b, block.content};
}

void BlockPool::check() const {
  std::vector<int> seen(size(), 0);
  for (BlockId b : free_) {
    require(blocks_[b].references == 0 && blocks_[b].content == 0, "a free block is used or published");
    ++seen[b];
  }
  std::size_t cached = 0;
  for (BlockId b = oldest_, older = kNoBlock; b != kNoBlock; older = b, b = blocks_[b].newer) {
    require(blocks_[b].references == 0 && blocks_[b].content != 0, "a cached block is used or not published");
    require(blocks_[b].older == older, "the list of cached blocks is broken");
    ++seen[b];
    ++cached;
  }
  require(cached == cached_, "the number of cached blocks is wrong");
  for (std::size_t b = 0; b < size(); ++b) {
    require(seen[b] == (blocks_[b].references == 0 ? 1 : 0), "a block is in no list, or in two");
  }
  std::size_t published = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    for (BlockId b = buckets_[i]; b != kNoBlock; b = blocks_[b].next_in_bucket, ++published) {
      require(blocks_[b].content != 0 && (blocks_[b].hash & (buckets_.size() - 1)) == i,
              "a block is in a wrong bucket");
    }
  }
  const auto is_published = [](const Block& block) { return block.content != 0; };
  require(published == static_cast<std::size_t>(std::count_if(blocks_.begin(), blocks_.end(), is_published)),
          "a published block cannot be found");
}

}  // namespace gpt2::scheduler
