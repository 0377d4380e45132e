// The rules that look at the history: repetition penalty, banned n-grams, minimal length.
//
// Each changes the scores [V] of a few tokens in place. Ids in the history and in the stop list are checked by the
// caller, so nothing here reads or writes outside the vocabulary.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gpt2::sampling {

struct History {
  const std::int32_t* ids;
  std::size_t length;
};

// Remembers which ids were met, without clearing V entries per token.
class SeenSet {
 public:
  explicit SeenSet(std::size_t vocab_size) : stamp_(vocab_size, 0) {}
  void clear();
  // True the first time that an id comes after clear().
  bool insert(std::int32_t id);

 private:
  std::vector<std::uint32_t> stamp_;
  std::uint32_t now_ = 0;
};

// Each id of the history once: score < 0 ? score * penalty : score / penalty (arXiv:1909.05858).
void penalise_repetition(float* scores, History history, float penalty, SeenSet& seen);

// -inf for each id that would complete an n-gram that the history already holds (arXiv:1705.04304). n >= 1; n == 1 bans
// every id of the history. Compares at most history.length * n ids.
void ban_repeated_ngrams(float* scores, History history, std::size_t n);

// -inf for each of `ids`.
void ban(float* scores, const std::vector<std::int32_t>& ids);

}  // namespace gpt2::sampling
