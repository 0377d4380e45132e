// Byte-level BPE as GPT-2 has it: text to token ids and back. The one header that a C++ user includes.
//
//   Tokenizer t(read_vocab_and_merges(vocab, merges, "vocab.json", "merges.txt"));
//   IdBuffer ids;
//   t.encode("Hello, world", {}, ids);          // 15496 11 995 with GPT-2's vocabulary
//   std::string text = t.decode(ids.data(), ids.size());
//
// Text is any sequence of bytes; decode(encode(x)) == x for every x. Special tokens in a text are plain text unless the
// call allows them. Encoding takes O(n) for natural text and O(n log n) for the worst (one word of n bytes); memory
// beyond the result is O(longest word) and a word cache of fixed size for each thread that encodes at the same time.
// Every method is const and thread-safe.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/id_buffer.h"
#include "tokenizer/vocabulary.h"

namespace gpt2::tokenizer {

class WordEncoder;

class Tokenizer {
 public:
  explicit Tokenizer(Vocabulary vocabulary);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // Appends the ids of `text`. allowed: ids of special tokens that are recognised in it (the leftmost, of those that
  // start at one place the longest). Throws kInvalidRequest when one of `allowed` is no special token.
  void encode(std::string_view text, std::span<const std::uint32_t> allowed, IdBuffer& out) const;

  // The ids of each text, on up to `threads` >= 1 threads; the same as encode() of each.
  std::vector<IdBuffer> encode_batch(std::span<const std::string_view> texts, std::span<const std::uint32_t> allowed,
                                     int threads) const;

  // The bytes of the ids, one token after the other. Throws kInvalidRequest naming the first id outside the vocabulary
  // and its position. skip_special leaves out the special tokens.
  std::string decode(const std::int64_t* ids, std::size_t count, bool skip_special = false) const;
  std::string decode(const std::int32_t* ids, std::size_t count, bool skip_special = false) const;

 private:
  class Lease;

  Vocabulary vocabulary_;
  Bpe bpe_;
  mutable std::mutex mutex_;  // guards idle_
  mutable std::vector<std::unique_ptr<WordEncoder>> idle_;
};

}  // namespace gpt2::tokenizer
