// Byte-pair encoding of one pre-token: the pair of neighbours with the lowest rank is merged, the leftmost first, until
// no pair of neighbours has a merge (Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019).
//
// Three roads, one answer: up to 16 bytes everything is in registers and the first cache level; up to 64 bytes small
// arrays are shifted; longer words use a linked list and one queue of positions per rank, O(n log n), so that a
// megabyte of one letter takes well under a second.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "tokenizer/id_buffer.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace gpt2::tokenizer {

// Working memory of long_word(), one per thread. Grows to the longest word seen and is given back beyond kKept.
struct BpeScratch {
  static constexpr std::size_t kKept = std::size_t{1} << 16;

  struct Queue {
    std::vector<std::uint32_t> positions;  // in `positions[next..]`, ascending if `sorted`
    std::size_t next = 0;
    std::uint32_t rank = 0;
    bool sorted = true;
  };
  std::vector<std::uint32_t> ids, ranks, previous, following;
  std::vector<Queue> queues;
  std::vector<std::uint32_t> queue_of_rank;
  std::vector<std::uint32_t> lowest;  // a heap of the ranks that have a queue
};

class Bpe {
 public:
  // Copies what it needs of the vocabulary.
  explicit Bpe(const Vocabulary& vocabulary);

  // Appends the ids of the word's `size` bytes. Thread-safe with a scratch of one's own. Throws kInvalidRequest for a
  // word of 2^32 - 1 bytes or more.
  void encode_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const;

  std::uint32_t byte_id(std::uint8_t byte) const { return byte_ids_[byte]; }

  // Whether some merge makes a token that has these two bytes beside each other. Where none does, nothing is ever
  // merged across the border between them, and the two sides can be encoded apart.
  bool joins(std::uint8_t left, std::uint8_t right) const {
    return (joins_[(left << 2) | (right >> 6)] >> (right & 63)) & 1;
  }

  // The same question for a border before the first byte of a character that is not ASCII, asked more closely: whether
  // some merge makes a token that has the border within it and agrees with the two bytes on either side as far as it
  // reaches. May be true where there is none (the answer comes from a hashed set), never false where there is one.
  bool joins_around(const std::uint8_t* border) const {
    const std::uint32_t left = border[-2], right = border[1];
    return (has_context(left, border, right) || has_context(kAny, border, right) || has_context(left, border, kAny) ||
            has_context(kAny, border, kAny));
  }

  // The roads, for tests: 1 <= size <= kTiny, 1 <= size <= kShort, 1 <= size.
  static constexpr std::size_t kTiny = 16, kShort = 64;
  void tiny_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const;
  void short_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const;
  void long_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const;

 private:
  static constexpr std::uint32_t kNone = MergeTable::kNone;
  std::uint32_t rank(std::uint32_t left, std::uint32_t right) const { return merges_.rank(left, right); }
  std::uint32_t byte_rank(std::uint8_t left, std::uint8_t right) const { return byte_ranks_[(left << 8) | right]; }

  // A token that ends at the byte beside the border agrees with whatever is beyond.
  static constexpr std::uint32_t kAny = 256;
  static constexpr unsigned kContextBits = 17;
  static std::size_t context(std::uint32_t left, std::uint8_t before, std::uint8_t after, std::uint32_t right) {
    const std::uint64_t key =
        (std::uint64_t{left} << 32) | (std::uint64_t{before} << 24) | (std::uint64_t{after} << 16) | right;
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> (64 - kContextBits));
  }
  bool has_context(std::uint32_t left, const std::uint8_t* border, std::uint32_t right) const {
    const std::size_t bit = context(left, border[-1], border[0], right);
    return (contexts_[bit / 64] >> (bit % 64)) & 1;
  }
  void note_borders(std::string_view token);

  std::array<std::uint32_t, 256> byte_ids_;
  std::array<std::uint64_t, 1024> joins_{};
  std::vector<std::uint64_t> contexts_ = std::vector<std::uint64_t>((std::size_t{1} << kContextBits) / 64);
  std::vector<std::uint32_t> byte_ranks_;  // [256 * 256] ranks of the pairs of bytes, which every word begins with
  MergeTable merges_;
  std::vector<std::uint32_t> products_;  // by rank
};

}  // namespace gpt2::tokenizer
