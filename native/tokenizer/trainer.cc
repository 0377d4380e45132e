#include "tokenizer/trainer.h"

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "base/errors.h"
#include "tokenizer/byte_symbols.h"
#include "tokenizer/pair_map.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::uint32_t kNoList = 0xFFFFFFFFu;

struct PairInfo {
  std::int64_t count = 0;
  std::uint32_t step = kNoList;  // the merge at which `list` was begun
  std::uint32_t list = kNoList;  // the words that gained this pair at that merge
};

// A pair to merge and the words to look into. The count may be out of date; it is checked when the candidate comes up.
struct Candidate {
  std::int64_t count;
  std::uint64_t pair;
  std::uint32_t list;

  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& counts, const TrainOptions& options) : options_(options) {
    for (unsigned i = 0; i < 256; ++i) add_token(std::string(1, static_cast<char>(kByteSymbols.by_rank[i])));
    for (const WordCounts::Word& w : counts.words()) {
      if (w.length < 2) continue;  // nothing to merge
      begins_.push_back(symbols_.size());
      lengths_.push_back(w.length);
      counts_.push_back(static_cast<std::int64_t>(w.count));
      for (const char c : counts.text(w)) symbols_.push_back(kByteSymbols.rank[static_cast<std::uint8_t>(c)]);
    }
  }

  Vocabulary run() {
    count_pairs();
    const std::size_t target = options_.vocab_size - options_.specials.size();
    while (tokens_.size() < target && merges_.size() + 1 < kMaxMerges && !queue_.empty()) {
      Candidate top = queue_.top();
      queue_.pop();
      const std::int64_t now = pairs_[top.pair].count;
      if (now < 1) continue;
      if (now != top.count) {
        top.count = now;
        queue_.push(top);
        continue;
      }
      if (static_cast<std::uint64_t>(now) < options_.min_frequency) break;
      merge(top);
    }
    return vocabulary();
  }

 private:
  std::uint32_t add_token(std::string bytes) {
    const auto [at, added] = ids_.try_emplace(bytes, static_cast<std::uint32_t>(tokens_.size()));
    if (added) tokens_.push_back(std::move(bytes));
    return at->second;
  }

  // One more (or fewer) occurrence of a pair in a word; a pair that is gained is noted for the queue.
  void change(std::uint32_t left, std::uint32_t right, std::int64_t by, std::uint32_t word) {
    const std::uint64_t key = pair_key(left, right);
    PairInfo& info = pairs_[key];
    info.count += by;
    if (by < 0) return;
    if (info.step != step_) {
      info.step = step_;
      info.list = new_list();
      gained_.push_back(key);
    }
    std::vector<std::uint32_t>& list = lists_[info.list];
    if (list.empty() || list.back() != word) list.push_back(word);  // words are visited one after the other
  }

  std::uint32_t new_list() {
    if (free_lists_.empty()) {
      lists_.emplace_back();
      return static_cast<std::uint32_t>(lists_.size() - 1);
    }
    const std::uint32_t list = free_lists_.back();
    free_lists_.pop_back();
    return list;
  }

  void queue_gained() {
    for (const std::uint64_t key : gained_) {
      const PairInfo& info = pairs_[key];
      if (info.count > 0) queue_.push({info.count, key, info.list});
    }
    gained_.clear();
    ++step_;
  }

  void count_pairs() {
    for (std::uint32_t w = 0; w < begins_.size(); ++w) {
      const std::uint32_t* s = symbols_.data() + begins_[w];
      for (std::uint32_t i = 0; i + 1 < lengths_[w]; ++i) change(s[i], s[i + 1], counts_[w], w);
    }
    queue_gained();
  }

  void merge(const Candidate& top) {
    const auto left = static_cast<std::uint32_t>(top.pair >> 32), right = static_cast<std::uint32_t>(top.pair);
    const std::uint32_t product = add_token(tokens_[left] + tokens_[right]);
    merges_.push_back({left, right, product});
    const std::vector<std::uint32_t> words = std::move(lists_[top.list]);
    lists_[top.list].clear();
    free_lists_.push_back(top.list);
    for (const std::uint32_t w : words) merge_word(w, merges_.back());
    queue_gained();
  }

  void merge_word(std::uint32_t w, const Merge& m) {
    std::uint32_t* s = symbols_.data() + begins_[w];
    const std::uint32_t n = lengths_[w];
    std::uint32_t to = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      if (s[i] != m.left || i + 1 == n || s[i + 1] != m.right) {
        s[to++] = s[i];
        continue;
      }
      if (to > 0) {
        change(s[to - 1], m.left, -counts_[w], w);
        change(s[to - 1], m.product, counts_[w], w);
      }
      if (i + 2 < n) {
        change(m.right, s[i + 2], -counts_[w], w);
        change(m.product, s[i + 2], counts_[w], w);
      }
      s[to++] = m.product;
      ++i;
    }
    lengths_[w] = to;
  }

  Vocabulary vocabulary() const {
    Vocabulary out;
    for (const std::string& token : tokens_) out.append_token(token);
    for (unsigned byte = 0; byte < 256; ++byte) out.set_byte(static_cast<std::uint8_t>(byte), kByteSymbols.rank[byte]);
    for (const Merge& m : merges_) out.append_merge(m);
    for (const std::string& special : options_.specials) {
      if (ids_.contains(special)) {
        throw Error(ErrorKind::kInvalidRequest, "special_tokens", special + ", which is an ordinary token",
                    "texts that no merge makes");
      }
      out.append_special(out.size());
      out.append_token(special);
    }
    return out;
  }

  const TrainOptions& options_;
  std::vector<std::string> tokens_;  // by id
  std::unordered_map<std::string, std::uint32_t> ids_;
  std::vector<Merge> merges_;

  std::vector<std::uint32_t> symbols_;  // of all words, one after the other; a word only shrinks
  std::vector<std::size_t> begins_;
  std::vector<std::uint32_t> lengths_;
  std::vector<std::int64_t> counts_;

  PairMap<PairInfo> pairs_;
  std::vector<std::vector<std::uint32_t>> lists_;
  std::vector<std::uint32_t> free_lists_;
  std::vector<std::uint64_t> gained_;
  std::priority_queue<Candidate> queue_;
  std::uint32_t step_ = 0;
};

void check(const TrainOptions& options) {
  if (options.vocab_size < 256 + options.specials.size() || options.vocab_size > kMaxTokens) {
    throw Error(ErrorKind::kInvalidRequest, "vocab_size", std::to_string(options.vocab_size),
                "256 bytes and " + std::to_string(options.specials.size()) + " special tokens at least, " +
                    std::to_string(kMaxTokens) + " at most");
  }
  for (std::size_t i = 0; i < options.specials.size(); ++i) {
    const std::string& special = options.specials[i];
    const bool printable = std::all_of(special.begin(), special.end(), [](char c) { return c >= ' ' && c <= '~'; });
    const auto before = options.specials.begin() + static_cast<std::ptrdiff_t>(i);
    if (special.size() < 2 || !printable || std::find(options.specials.begin(), before, special) != before) {
      throw Error(ErrorKind::kInvalidRequest, "special_tokens[" + std::to_string(i) + "]", "\"" + special + "\"",
                  "two or more printable ASCII characters, each token once");
    }
  }
}

}  // namespace

Vocabulary train(const WordCounts& counts, const TrainOptions& options) {
  check(options);
  return Trainer(counts, options).run();
}

}  // namespace gpt2::tokenizer
