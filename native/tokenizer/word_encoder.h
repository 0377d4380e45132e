// Plain text to ids: cut it into pre-tokens, look each up among those seen before, and merge what is new.
//
// Why a cache: a text has few different words, and BPE of a word costs twenty times a look-up. Words of up to 15 bytes
// are keys of 16 bytes (the last is the length), two to a cache line; the newer of the two is tried first and the older
// one makes room. Longer words are cut where nothing can be merged across (Bpe::joins), which turns a run of Chinese
// into characters; what cannot be cut is merged each time. The size has a limit, which no text can exceed.
//
// One object per thread. The ids never depend on what is in the cache.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/id_buffer.h"

namespace gpt2::tokenizer {

class WordEncoder {
 public:
  // The Bpe must outlive the object.
  explicit WordEncoder(const Bpe& bpe);

  // Appends the ids of the text, which has no special tokens.
  void encode(const std::uint8_t* text, std::size_t size, IdBuffer& out);

 private:
  static constexpr std::size_t kMaxKey = 15;
  static constexpr std::uint32_t kInline = 3;
  // 1,024 lines of two entries (64 KB) to begin with, which grow to 65,536 (4 MB) as different words are seen.
  static constexpr unsigned kFirstBits = 10, kLastBits = 16;
  static constexpr std::size_t kPool = std::size_t{1} << 16;

  struct Key {
    std::uint64_t low, high;
  };
  struct Entry {
    std::uint64_t low, high;
    std::uint32_t ids[kInline];  // more than kInline ids: ids[0] is where they are in pool_
    std::uint32_t count;
  };
  struct Free {
    void operator()(Entry* p) const;
  };

  // 16 bytes from `word` on may be read.
  static Key key_of(const std::uint8_t* word, std::size_t size);
  Entry* line(const Key& key) const;
  const Entry* find(const Key& key) const;
  const std::uint32_t* ids_of(const Entry& entry) const {
    return entry.count <= kInline ? entry.ids : pool_.data() + entry.ids[0];
  }
  static Entry* new_entries(unsigned bits);
  void grow();
  void insert(const Key& key, const std::int32_t* ids, std::size_t count);

  bool joined(const std::uint8_t* text, std::size_t size, std::size_t i) const;
  std::size_t repeat(const std::uint8_t* text, std::size_t at, std::size_t end, IdBuffer& out) const;
  // The words [start, ends[0]), [ends[0], ends[1]), ...
  void group(const std::uint8_t* text, std::size_t size, std::size_t start, const std::size_t* ends, std::size_t count,
             IdBuffer& out);
  // `readable` bytes from `word` on may be read, size of them are the word.
  void rare(const std::uint8_t* word, std::size_t size, std::size_t readable, IdBuffer& out);

  const Bpe& bpe_;
  BpeScratch scratch_;
  unsigned bits_ = kFirstBits;  // log2 of the number of lines
  std::size_t inserted_ = 0;    // words that were new since the table has this size
  std::unique_ptr<Entry[], Free> entries_;
  std::vector<std::uint32_t> pool_;  // kPool ids and what a look-up may read beyond them
  std::size_t pooled_ = 0;
};

}  // namespace gpt2::tokenizer
