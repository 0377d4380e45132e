// The rank of the merge of two tokens, for the inner loop of BPE: 8 bytes per slot, so that the table of GPT-2's 50,000
// merges is 1 MB and stays in the second cache level.
//
// A slot holds left (21 bits), right (21 bits) and rank (22 bits); linear probing; read-only once it is made.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace gpt2::tokenizer {

class MergeTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;

  // Ids below 2^21 and at most 2^22 - 1 merges, which make_vocabulary() and train() guarantee. Of a pair that is listed
  // twice the later rank counts, as in Hugging Face tokenizers.
  explicit MergeTable(const std::vector<Merge>& merges) {
    std::size_t slots = 16;
    while (slots < 2 * merges.size()) {
      slots *= 2;
      --shift_;
    }
    slots_.assign(slots, kFree);
    mask_ = slots - 1;
    for (std::uint32_t rank = 0; rank < merges.size(); ++rank) {
      const std::uint64_t key = key_of(merges[rank].left, merges[rank].right);
      std::size_t i = slot(key);
      while (slots_[i] != kFree && slots_[i] >> kRankBits != key) i = (i + 1) & mask_;
      slots_[i] = (key << kRankBits) | rank;
    }
  }

  // kNone where the two are never merged.
  std::uint32_t rank(std::uint32_t left, std::uint32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t i = slot(key);; i = (i + 1) & mask_) {
      const std::uint64_t found = slots_[i];
      if (found >> kRankBits == key) return static_cast<std::uint32_t>(found & kRankMask);
      if (found == kFree) return kNone;
    }
  }

 private:
  static constexpr unsigned kIdBits = 21, kRankBits = 22;
  static constexpr std::uint64_t kRankMask = (std::uint64_t{1} << kRankBits) - 1;
  // The rank 2^22 - 1 is never given, so no slot in use looks like this.
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  static std::uint64_t key_of(std::uint32_t left, std::uint32_t right) {
    return (static_cast<std::uint64_t>(left) << kIdBits) | right;
  }
  std::size_t slot(std::uint64_t key) const { return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_); }

  std::vector<std::uint64_t> slots_;
  std::size_t mask_ = 0;
  unsigned shift_ = 60;
};

}  // namespace gpt2::tokenizer
