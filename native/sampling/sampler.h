// Choose the next token from logits: the one native implementation of every decoding strategy.
//
// Knows nothing of models, caches or text. Its readable twin is src/gpt2/decoding/sampling.py; the two are held
// together by tests/decoding/test_parity.py.
//
// V vocabulary size. First the caller's mask; then the rules of params.h, in the order of the request; then
// renormalize_logits; then the draw: kept tokens in order of their id, inverse of their cumulative weights exp(z) at
// u = philox_uniform(seed, alternative, generated), or for temperature 0 the largest score, ties to the lowest id.
//
// A rule that looks at the history (history.h) changes scores; one that shapes the draw (candidates.h) works on
// z = (score - largest) / temperature. A rule of the first kind that an order puts after one of the second sees z.
//
// Weights exp(z) are float32 (exp.h: relative error <= 2^-22), their sums double; z < -87 has weight 0.
// Log-probabilities are those of the model itself: log-softmax of the unchanged logits, before rule 1, temperature 1;
// absolute error <= 1e-6 plus half a unit in the last place.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "sampling/candidates.h"
#include "sampling/history.h"
#include "sampling/params.h"

namespace gpt2::sampling {

struct Choice {
  std::int32_t token = -1;
  float logprob = 0.0f;           // 0 unless asked for
  std::vector<TokenLogprob> top;  // best first, ties by id; empty (and never allocated) unless asked for
};

// What a rule carries from one token of a sequence to the next: copy it where the sequence forks, and put an old copy
// back where it is rewound. A fresh one starts a sequence. Most rules need none and are functions of the history.
struct State {
  double mu = std::numeric_limits<double>::quiet_NaN();  // mirostat: surprise allowed, in bits; NaN: not begun
};

// Holds the working memory (about 28 bytes per vocabulary entry); next() allocates nothing except Choice::top. One
// Sampler per thread.
class Sampler {
 public:
  explicit Sampler(int vocab_size);

  int vocab_size() const { return vocab_size_; }

  // The next token. logits [V], not changed; the history is read by the rules that need it only. A result depends on
  // the arguments alone; `state` becomes that of the sequence with the chosen token. All three throw kEngine when the
  // logits hold NaN or +inf or are all -inf; kInvalidRequest for params that check() refuses, an id of the history
  // outside the vocabulary, or rules or a mask that leave no token to choose. Then the state stands.
  Choice next(const float* logits, const Params& params, const Place& place, State& state);

  // The k best tokens after the mask and the rules before temperature, with their scores: best first, ties by id,
  // fewer where fewer are left. normalise: log-softmax of the logits before all (absolute error as of logprobs).
  std::vector<TokenLogprob> candidates(const float* logits, const Params& params, const Place& place, std::size_t k,
                                       bool normalise);

  // Scores [V] after the mask and the rules, to `out` (which may be logits); -inf for what is banned. draw_rules: with
  // the rules from temperature on, so that softmax(out) is what next() draws from; at temperature 0 they do nothing.
  void process(const float* logits, const Params& params, const Place& place, const State& state, bool normalise,
               bool draw_rules, float* out);

 private:
  struct Scores;
  Scores start(const float* logits, const Params& params, const Place& place, bool normalise_first);
  void apply(Scores& scores, const Params& params, const Place& place, const State& state, bool with_draw_rules);
  void own(Scores& scores);
  void settle(Scores& scores, const Place& place);

  int vocab_size_;
  Candidates candidates_;
  HistoryRules history_rules_;
  std::vector<float> scores_, block_max_;
};

// log-softmax of logits [V] at one token. Throws as Sampler::next does.
float log_softmax_at(const float* logits, std::size_t vocab_size, std::int32_t token);

// The n most probable tokens with their log-probabilities, best first, ties by id; min(n, V) of them.
std::vector<TokenLogprob> top_n(const float* logits, std::size_t vocab_size, std::size_t n);

}  // namespace gpt2::sampling
