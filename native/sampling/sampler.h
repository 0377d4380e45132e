// Choose the next token from logits: the one native implementation of every decoding strategy.
//
// Knows nothing of models, caches or text. Its readable twin is src/gpt2/decoding/sampling.py; the two are held
// together by tests/decoding/test_parity.py.
//
// V vocabulary size. Rules are applied in this order, which is that of transformers' generate():
//
//   0 mask                  bans the tokens whose bit is not set (a grammar, a trie: whatever the caller computes)
//   1 repetition_penalty    every id of the history once: logit < 0 ? logit * r : logit / r        arXiv:1909.05858
//   2 no_repeat_ngram_size  bans each id that would complete an n-gram already in the history      arXiv:1705.04304
//   3 min_new_tokens        bans the stop ids while fewer tokens than this were generated
//   4 temperature           z = (logit - largest logit) / temperature, in float32; 0 stops here and takes the largest
//                           logit, ties to the lowest id
//   5 top_k                 keeps z >= the k-th largest z, so ties with it stay                    arXiv:1805.04833
//   6 top_p                 in order of falling z (ties: lowest id first) keeps a token while the probability of those
//                           before it is < top_p; the token that crosses stays, so at least one does  arXiv:1904.09751
//   7 min_p                 keeps z >= ln(min_p), that is probability >= min_p * largest probability arXiv:2407.01082
//   8 draw                  kept tokens in order of their id, inverse of their cumulative weights exp(z) at
//                           u = philox_uniform(seed, alternative, generated)
//
// Weights exp(z) are float32 (exp.h: relative error <= 2^-22), their sums double; z < -87 has weight 0.
// Log-probabilities are those of the model itself: log-softmax of the unchanged logits, before rule 1, temperature 1;
// absolute error <= 1e-6 plus half a unit in the last place.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace gpt2::sampling {

struct Params {
  double temperature = 1.0;
  int top_k = 0;  // 0: off; more than V is V
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  int no_repeat_ngram_size = 0;  // 0: off
  int min_new_tokens = 0;
  std::vector<std::int32_t> stop_token_ids;  // with the end-of-text id, unless it is to be ignored
  std::uint64_t seed = 0;
  int logprobs = -1;  // -1: none; 0: of the chosen token; k: of the k most probable too
};

// Throws kInvalidRequest, naming the field, for a value outside its range or a stop id outside [0, vocab_size).
void check(const Params& params, int vocab_size);

using TokenLogprob = std::pair<std::int32_t, float>;

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

// Where in a text a token is to be chosen.
struct Place {
  const std::int32_t* history = nullptr;  // [length] ids of prompt and generated tokens
  std::size_t length = 0;
  std::size_t generated = 0;  // how many of them, the last ones, were generated
  std::uint32_t alternative = 0;
  // [ceil(V / 32)]: bit t % 32 of word t / 32 says whether token t is allowed; null: all are.
  const std::uint32_t* mask = nullptr;
};

struct Scan;
struct Workspace;

// Holds the working memory (about 24 bytes per vocabulary entry); next() allocates nothing except Choice::top. One
// Sampler per thread.
class Sampler {
 public:
  explicit Sampler(int vocab_size);
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

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
  const float* history_rules(const float* logits, const Params& params, const Place& place, bool normalise, Scan& s);

  int vocab_size_;
  std::unique_ptr<Workspace> work_;
};

// log-softmax of logits [V] at one token. Throws as Sampler::next does.
float log_softmax_at(const float* logits, std::size_t vocab_size, std::int32_t token);

// The n most probable tokens with their log-probabilities, best first, ties by id; min(n, V) of them.
std::vector<TokenLogprob> top_n(const float* logits, std::size_t vocab_size, std::size_t n);

}  // namespace gpt2::sampling
