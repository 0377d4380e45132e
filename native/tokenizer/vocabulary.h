// What a byte-level BPE knows: the bytes of each token, the merges in order of their rank, the special tokens.
//
// A Vocabulary that make_vocabulary() returned is valid: ids are 0..V-1 without gaps, every byte has a token, and every
// merge names tokens that exist. Reading and writing files is formats.h; this file knows nothing of JSON.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace gpt2::tokenizer {

struct Merge {
  std::uint32_t left, right, product;  // ids; the index of the merge in its list is its rank (lower merges first)
};

// What fits a slot of the merge table (merge_table.h); the largest vocabularies in use have a tenth of it.
inline constexpr std::size_t kMaxTokens = std::size_t{1} << 21, kMaxMerges = std::size_t{1} << 22;

class Vocabulary {
 public:
  std::uint32_t size() const { return static_cast<std::uint32_t>(ends_.size() - 1); }

  // The bytes that an id < size() stands for; of a special token its text.
  std::string_view token(std::uint32_t id) const {
    return std::string_view(bytes_).substr(ends_[id], ends_[id + 1] - ends_[id]);
  }

  std::uint32_t byte_id(std::uint8_t byte) const { return byte_ids_[byte]; }
  const std::vector<Merge>& merges() const { return merges_; }
  // The ids of the special tokens, ascending.
  const std::vector<std::uint32_t>& specials() const { return specials_; }
  bool is_special(std::uint32_t id) const;

  // The token as vocabulary files write it: byte symbols in UTF-8, a special token verbatim.
  std::string symbol(std::uint32_t id) const;

  // A serial form of everything that decides ids: equal for equal vocabularies whatever file they came from.
  std::string canonical() const;

  void reserve(std::size_t tokens, std::size_t merges);
  void append_token(std::string_view bytes);
  void set_byte(std::uint8_t byte, std::uint32_t id) { byte_ids_[byte] = id; }
  void append_merge(const Merge& merge) { merges_.push_back(merge); }
  void append_special(std::uint32_t id) { specials_.push_back(id); }

 private:
  std::string bytes_;                   // all tokens, one after the other
  std::vector<std::uint32_t> ends_{0};  // [V + 1]
  std::array<std::uint32_t, 256> byte_ids_{};
  std::vector<Merge> merges_;
  std::vector<std::uint32_t> specials_;
};

// A vocabulary as files spell it, before anything has been checked. The symbols are views: into the files' text, or
// into `arena`, whose memory never moves.
struct RawVocabulary {
  struct Entry {
    std::string_view symbol;
    std::int64_t id = 0;
    bool special = false;  // declared so; entries that no merge makes may turn out special, too
  };
  struct RawMerge {
    std::string_view left, right;
    std::size_t line = 0;  // or index in a list, for messages
  };
  std::deque<std::string> arena;
  std::vector<Entry> entries;
  std::vector<RawMerge> merges;
  std::string vocab_source, merges_source;  // names for messages
  std::string merge_unit = "line";          // what RawMerge::line counts

  // A copy of the text that lives as long as this object, moved or not.
  std::string_view keep(std::string_view text) {
    constexpr std::size_t kBlock = std::size_t{1} << 16;
    if (arena.empty() || arena.back().capacity() - arena.back().size() < text.size()) {
      arena.emplace_back().reserve(std::max(kBlock, text.size()));
    }
    std::string& block = arena.back();
    block += text;
    return std::string_view(block).substr(block.size() - text.size());
  }
};

// Checks and converts. Throws kTokenizer naming source, entry or line, got and expected, for: an id that is negative,
// taken twice or beyond the number of entries (a gap), a token that is there twice, a byte without a token, a merge of
// unknown tokens or with an unknown product.
//
// An entry that is neither a byte nor made by a merge is a special token, unless it is written in byte symbols that are
// not ASCII ("\u0120foo"): that is an ordinary token which encoding never makes.
Vocabulary make_vocabulary(const RawVocabulary& raw);

}  // namespace gpt2::tokenizer
