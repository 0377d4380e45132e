// Who uses which block of the KV cache, and which block holds what: reference counts, a free list, and the prefix
// cache.
//
// A block that holds keys and values of kBlockTokens tokens may be published: then a sequence that begins with the same
// tokens finds it and shares it. A published block without references stays, least recently used first to go, until its
// place is needed. Knows indices and token ids only: neither memory nor sequences nor time.
//
// What is equal: content is named by a chain of blocks. A block equals another when its tokens do and the content
// before it does (or, for a first block, the space: model, adapter and salt). The hash of these leads to the
// candidates; the tokens are then compared, so that equal hashes never share wrongly.
//
// Nothing is allocated after construction.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace gpt2::scheduler {

inline constexpr std::size_t kBlockTokens = 64;  // the engine checks that it is the kernels' block

using BlockId = std::uint32_t;
inline constexpr BlockId kNoBlock = UINT32_MAX;

// Requests share prefixes within one space only: who knows no key of it can neither find nor time what is in it.
using Space = std::shared_ptr<const std::string>;

// Names the content of a full block and of all before it; 0 is "nothing before". Never used twice.
using ContentId = std::uint64_t;

class BlockPool {
 public:
  // hash_mask: tests set it to 0, so that all hashes collide. Throws std::bad_alloc.
  explicit BlockPool(std::size_t blocks, std::uint64_t hash_mask = ~std::uint64_t{0});

  std::size_t size() const { return blocks_.size(); }
  std::size_t free() const { return free_.size(); }  // hold nothing
  std::size_t cached() const { return cached_; }     // published, and nobody uses them
  std::size_t used() const { return size() - free() - cached(); }
  std::size_t available() const { return free() + cached(); }
  std::uint32_t references(BlockId b) const { return blocks_[b].references; }
  bool published(BlockId b) const { return blocks_[b].content != 0; }
  ContentId before(BlockId b) const { return blocks_[b].before; }  // of a published block

  // A block with one reference and no content; kNoBlock when all are in use. Free ones first, then the cached one that
  // was used least recently.
  BlockId take();
  // One more reference to a block that is used or cached.
  void share(BlockId b);
  // One reference less. The last one makes the block cached if it is published, else free.
  void release(BlockId b);

  struct Found {
    BlockId block = kNoBlock;
    ContentId content = 0;
  };
  // The published block with these kBlockTokens tokens after `before`; takes no reference.
  Found find(ContentId before, const Space& space, const std::int32_t* tokens) const;
  // Says what the used block `b` holds. Returns the block that is found from now on: `b`, or one that was published
  // with the same content before (then `b` stays as it is).
  Found publish(BlockId b, ContentId before, const Space& space, const std::int32_t* tokens);

  // Throws std::logic_error when the books do not balance. For tests; visits every block.
  void check() const;

 private:
  struct Block {
    std::uint32_t references = 0;
    ContentId content = 0, before = 0;  // content 0: not published
    std::uint64_t hash = 0;
    Space space;                                 // of a first block
    BlockId older = kNoBlock, newer = kNoBlock;  // the list of cached blocks
    BlockId next_in_bucket = kNoBlock;
  };
  std::uint64_t hash(ContentId before, const Space& space, const std::int32_t* tokens) const;
  bool holds(BlockId b, std::uint64_t hash, ContentId before, const Space& space, const std::int32_t* tokens) const;
  BlockId& bucket(std::uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  void unlink(BlockId b);  // from the list of cached blocks
  void forget(BlockId b);  // what it holds

  std::vector<Block> blocks_;
  std::vector<std::int32_t> tokens_;  // [blocks, kBlockTokens], of published blocks
  std::vector<BlockId> free_;         // a stack: memory that was touched is used again first
  std::vector<BlockId> buckets_;
  BlockId oldest_ = kNoBlock, newest_ = kNoBlock;
  std::size_t cached_ = 0;
  ContentId next_content_ = 1;
  std::uint64_t hash_mask_;
};

}  // namespace gpt2::scheduler
