// The rules that look at the history: penalties, biases, and what must or must not come next.
//
// Each changes scores [V] in place. Ids in the history and in the params are checked by the caller, so nothing here
// reads or writes outside the vocabulary. The cost of each is that of what it reads: the history once or twice, its own
// lists once; V only where a token is forced.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sampling/params.h"

namespace gpt2::sampling {

// Where in a text a token is to be chosen.
struct Place {
  const std::int32_t* history = nullptr;  // [length] ids of prompt and generated tokens
  std::size_t length = 0;
  std::size_t generated = 0;  // how many of them, the last ones, were generated
  std::uint32_t alternative = 0;
  // [ceil(V / 32)]: bit t % 32 of word t / 32 says whether token t is allowed; null: all are.
  const std::uint32_t* mask = nullptr;
};

// Counts ids without clearing V entries per token: whoever adds takes out again.
class HistoryRules {
 public:
  explicit HistoryRules(std::size_t vocab_size) : count_(vocab_size, 0) {}

  // Of a rule that does not shape the draw. Allocates only when a history is longer than any before.
  void apply(Rule rule, float* scores, const Params& params, const Place& place);

 private:
  struct Window {
    const std::int32_t* ids;
    std::size_t length;
  };
  void repetition(float* scores, Window window, float penalty);
  void frequency_or_presence(float* scores, Window window, float frequency, float presence);
  void dry(float* scores, const Params& params, Window window);

  std::vector<std::uint32_t> count_;     // [V], all 0 between calls
  std::vector<std::uint32_t> repeated_;  // of dry
};

// -inf for the tokens whose bit is not set.
void ban_unmasked(float* scores, std::size_t n, const std::uint32_t* mask);

}  // namespace gpt2::sampling
