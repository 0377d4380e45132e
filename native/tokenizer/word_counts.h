// How often each pre-token occurs in a corpus: the first half of training, in memory that has a limit.
//
// Pieces of a document are fed in any sizes; the counts are those of the whole document. Beyond max_words different
// words the rarest are forgotten (those seen once, then twice, ...), which dropped() reports; as long as that is 0 the
// counts are exact.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gpt2::tokenizer {

class WordCounts {
 public:
  // A pre-token longer than this is counted in pieces of at least this size: without a limit one "word" could be the
  // whole corpus.
  static constexpr std::size_t kMaxWord = std::size_t{1} << 20;

  // max_words: different words in memory, about 40 bytes and the word's own each.
  explicit WordCounts(std::size_t max_words);

  void feed(std::string_view piece);
  // The next piece belongs to another document: no word spans the two.
  void end_document();

  struct Word {
    std::uint64_t begin;  // into text()
    std::uint32_t length;
    std::uint32_t hash;
    std::uint64_t count;
  };
  const std::vector<Word>& words() const { return words_; }
  std::string_view text(const Word& word) const { return std::string_view(text_).substr(word.begin, word.length); }

  std::uint64_t bytes() const { return bytes_; }      // fed so far
  std::uint64_t dropped() const { return dropped_; }  // occurrences of words that were forgotten

 private:
  void count_pending(bool all);
  void count(std::string_view word);
  void forget_rarest();
  void rehash(std::size_t slots);

  std::size_t max_words_;
  std::string pending_;  // the end of what was fed: its last words could still grow
  std::string text_;     // the words, one after the other
  std::vector<Word> words_;
  std::vector<std::uint32_t> slots_;
  std::uint64_t bytes_ = 0, dropped_ = 0;
};

}  // namespace gpt2::tokenizer
