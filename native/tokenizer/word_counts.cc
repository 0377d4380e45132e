#include "tokenizer/word_counts.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "tokenizer/pretokenizer.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::uint32_t kFree = 0xFFFFFFFFu;
// What must be known behind a word before its end is certain: the last character of a run of white space and the one
// after it, four bytes each at most.
constexpr std::size_t kLookahead = 8;

std::uint32_t hash_of(std::string_view word) {
  std::uint64_t h = word.size();
  for (std::size_t at = 0; at < word.size(); at += 8) {
    std::uint64_t part = 0;
    std::memcpy(&part, word.data() + at, std::min<std::size_t>(8, word.size() - at));
    h = (h ^ part) * 0x9FB21C651E98DF25u;
    h ^= h >> 32;
  }
  return static_cast<std::uint32_t>(h ^ (h >> 17));
}

}  // namespace

WordCounts::WordCounts(std::size_t max_words) : max_words_(std::min<std::size_t>(max_words, kFree / 4)) {
  if (max_words_ < 1) throw Error(ErrorKind::kInvalidRequest, "max_words", "0", "at least 1");
  rehash(1024);
}

void WordCounts::feed(std::string_view piece) {
  bytes_ += piece.size();
  pending_ += piece;
  count_pending(false);
}

void WordCounts::end_document() { count_pending(true); }

void WordCounts::count_pending(bool all) {
  PreTokenizer cutter(reinterpret_cast<const std::uint8_t*>(pending_.data()), pending_.size());
  std::size_t ends[256];
  std::size_t start = 0;
  bool certain = true;
  while (certain) {
    const std::size_t found = cutter.next(ends, std::size(ends));
    if (found == 0) break;
    for (std::size_t i = 0; i < found; ++i) {
      certain = all || ends[i] + kLookahead <= pending_.size() || ends[i] - start > kMaxWord;
      if (!certain) break;
      count(std::string_view(pending_).substr(start, ends[i] - start));
      start = ends[i];
    }
  }
  pending_.erase(0, start);
}

void WordCounts::count(std::string_view word) {
  const std::uint32_t hash = hash_of(word);
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = hash & mask;
  for (; slots_[i] != kFree; i = (i + 1) & mask) {
    Word& w = words_[slots_[i]];
    if (w.hash == hash && text(w) == word) {
      ++w.count;
      return;
    }
  }
  if (words_.size() >= max_words_) {
    forget_rarest();
    count(word);
    return;
  }
  slots_[i] = static_cast<std::uint32_t>(words_.size());
  words_.push_back({text_.size(), static_cast<std::uint32_t>(word.size()), hash, 1});
  text_ += word;
  if (2 * words_.size() > slots_.size()) rehash(2 * slots_.size());
}

// Leaves at most half of max_words, so that the next call is far away.
void WordCounts::forget_rarest() {
  std::vector<std::uint64_t> counts(words_.size());
  std::transform(words_.begin(), words_.end(), counts.begin(), [](const Word& w) { return w.count; });
  const auto middle = counts.begin() + static_cast<std::ptrdiff_t>(counts.size() / 2);
  std::nth_element(counts.begin(), middle, counts.end());
  const std::uint64_t most = *middle;
  std::string text;
  std::vector<Word> kept;
  for (Word w : words_) {
    if (w.count <= most) {
      dropped_ += w.count;
      continue;
    }
    const std::string_view word = this->text(w);
    w.begin = text.size();
    text += word;
    kept.push_back(w);
  }
  text_ = std::move(text);
  words_ = std::move(kept);
  rehash(slots_.size());
}

void WordCounts::rehash(std::size_t slots) {
  slots_.assign(slots, kFree);
  for (std::uint32_t w = 0; w < words_.size(); ++w) {
    std::size_t i = words_[w].hash & (slots - 1);
    while (slots_[i] != kFree) i = (i + 1) & (slots - 1);
    slots_[i] = w;
  }
}

}  // namespace gpt2::tokenizer
