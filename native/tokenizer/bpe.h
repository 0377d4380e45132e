// Byte-pair encoding of one pre-token: the pair of neighbours with the lowest rank is merged, the leftmost first, until no
// pair of neighbours has a merge (Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019).
//
// Two roads, one answer: short words shift small arrays, which stay in registers and the first cache level; long ones use
// a linked list and a heap, O(n log n), so that a megabyte of one letter takes well under a second.
#pragma once
#include <cstdint>
#include <vector>

#include "tokenizer/id_buffer.h"
#include "tokenizer/pair_map.h"
#include "tokenizer/vocabulary.h"

namespace gpt2::tokenizer {

// Working memory of encode_word(), one per thread.
struct BpeScratch {
  std::vector<std::uint32_t> ids, ranks, previous, following;
  std::vector<std::uint64_t> heap;
};

class Bpe {
 public:
  // Copies what it needs of the vocabulary.
  explicit Bpe(const Vocabulary& vocabulary);

  // Appends the ids of the word's `size` bytes. Thread-safe with a scratch of one's own. Throws kInvalidRequest for a word
  // of 2^32 - 1 bytes or more.
  void encode_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const;

  // The two roads, for tests: `short_word` requires 1 <= size <= kShort.
  static constexpr std::size_t kShort = 64;
  void short_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const;
  void long_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const;

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
  std::uint32_t rank(std::uint32_t left, std::uint32_t right) const {
    const std::uint32_t* found = ranks_.find(pair_key(left, right));
    return found == nullptr ? kNone : *found;
  }

  std::uint32_t byte_ids_[256];
  PairMap<std::uint32_t> ranks_;
  std::vector<std::uint32_t> products_;  // by rank
};

}  // namespace gpt2::tokenizer
