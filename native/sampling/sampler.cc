#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/errors.h"
#include "base/philox.h"

namespace gpt2::sampling {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// The draws of one position: of the token, and of the coin that decides whether XTC acts.
constexpr std::uint32_t kTokenDraw = 0, kXtcDraw = 1;

// Turns logits into log-probabilities. Largest and log stay apart: in their sum, logits of 1e17 would swallow the log.
struct Normaliser {
  double largest;
  double log_sum;  // log of the sum of exp(x - largest)
  float operator()(float x) const { return static_cast<float>((static_cast<double>(x) - largest) - log_sum); }
};

Normaliser normalise(const float* logits, std::size_t n, float largest) {
  return {static_cast<double>(largest), std::log(sum_exp(logits, n, ToExponent{largest, 1.0f}, nullptr))};
}

void require_usable(const Scan& s) {
  if (s.has_nan_or_inf) {
    throw Error(ErrorKind::kEngine, "logits", "NaN or +inf among them", "finite numbers or -inf",
                "the weights are damaged, or overflow in this dtype; try weights=\"float32\"");
  }
  if (s.largest == -kInf) {
    throw Error(ErrorKind::kEngine, "logits", "-inf for every token", "at least one finite number",
                "the weights are damaged, or overflow in this dtype; try weights=\"float32\"");
  }
}

void require_ids(const char* field, const std::int32_t* ids, std::size_t n, int vocab_size) {
  for (std::size_t i = 0; i < n; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      throw Error(ErrorKind::kInvalidRequest, field, std::to_string(ids[i]),
                  "an id in [0, " + std::to_string(vocab_size) + ")");
    }
  }
}

// The rules that write to the scores of tokens of the history.
constexpr std::uint32_t kReadHistory = bit(Rule::kRepetitionPenalty) | bit(Rule::kFrequencyPenalty) |
                                       bit(Rule::kPresencePenalty) | bit(Rule::kDry) | bit(Rule::kNoRepeatNgram);

// What to blame when the scores cannot be used any more.
std::string names_of(std::uint32_t active, bool masked) {
  std::string names = masked ? "mask" : "";
  for (std::size_t i = 0; i < kRules; ++i) {
    const Rule r = static_cast<Rule>(i);
    if ((active & bit(r)) == 0 || shapes_draw(r)) continue;
    names += (names.empty() ? "" : ", ") + std::string(rule_name(r));
  }
  return names;
}

}  // namespace

// Scores on their way through the rules.
struct Sampler::Scores {
  const float* x;        // [V]: the caller's logits, or scores_
  Scan scan;             // of x, unless it has changed since
  std::uint32_t active;  // rules
  bool changed = false;
  bool drawing = false;  // the candidates are what counts, not x
  double offset = 0.0;   // what x lacks of the scores that process() gives
};

Sampler::Sampler(int vocab_size)
    : vocab_size_(vocab_size),
      candidates_(static_cast<std::size_t>(std::max(vocab_size, 0))),
      history_rules_(static_cast<std::size_t>(std::max(vocab_size, 0))),
      scores_(static_cast<std::size_t>(std::max(vocab_size, 0))),
      block_max_(blocks_of(scores_.size())) {
  if (vocab_size < 1) throw Error(ErrorKind::kInvalidRequest, "vocab_size", std::to_string(vocab_size), "1 or more");
}

// Checks everything, and does what comes before all rules.
Sampler::Scores Sampler::start(const float* logits, const Params& params, const Place& place, bool normalise_first) {
  check(params, vocab_size_);
  Scores scores{logits, scan(logits, scores_.size(), block_max_.data()), active_rules(params)};
  require_usable(scores.scan);
  if ((scores.active & kReadHistory) != 0) require_ids("history", place.history, place.length, vocab_size_);
  if (normalise_first) {
    const Normaliser normaliser = normalise(logits, scores_.size(), scores.scan.largest);
    std::transform(logits, logits + scores_.size(), scores_.begin(), normaliser);
    scores.x = scores_.data();
    scores.changed = true;
  }
  return scores;
}

// Makes scores.x writable.
void Sampler::own(Scores& scores) {
  if (scores.drawing) {
    candidates_.scatter_z(scores_.data());
    scores.offset = candidates_.offset();
    scores.drawing = false;
  } else if (scores.x != scores_.data()) {
    std::copy_n(scores.x, scores_.size(), scores_.begin());
  }
  scores.x = scores_.data();
  scores.changed = true;
}

// Renews the scan, and refuses scores that leave nothing to choose.
void Sampler::settle(Scores& scores, const Place& place) {
  if (!scores.changed) return;
  scores.changed = false;
  scores.scan = scan(scores.x, scores_.size(), block_max_.data());
  if (!scores.scan.has_nan_or_inf && scores.scan.largest > -kInf) return;
  const std::string names = names_of(scores.active, place.mask != nullptr);
  if (scores.scan.has_nan_or_inf)
    throw Error(ErrorKind::kInvalidRequest, names, "a logit that overflows", "a weaker penalty or bias");
  throw Error(ErrorKind::kInvalidRequest, names, "every token banned", "rules that leave at least one token",
              "rules that ban less, or fewer of them");
}

// The mask and the rules in their order. Afterwards scores.x is settled, or the candidates count (with_draw_rules, and
// temperature not 0).
void Sampler::apply(Scores& scores, const Params& params, const Place& place, const State& state,
                    bool with_draw_rules) {
  const bool draws = with_draw_rules && params.temperature != 0.0;
  const std::size_t min_keep = static_cast<std::size_t>(params.min_tokens_to_keep);
  const auto draw = [&] {
    if (scores.drawing) return;
    settle(scores, place);
    candidates_.begin(scores.x, block_max_.data(), scores.scan.largest, min_keep, scores.offset);
    scores.drawing = true;
  };
  const double mu = std::isnan(state.mu) ? 2.0 * params.mirostat_tau : state.mu;
  const double coin = (scores.active & bit(Rule::kXtc)) == 0
                          ? 1.0
                          : philox_uniform(params.seed, place.alternative, place.generated, kXtcDraw);
  if (place.mask != nullptr) {
    own(scores);
    ban_unmasked(scores_.data(), scores_.size(), place.mask);
  }
  for (const Rule rule : params.order) {
    if ((scores.active & bit(rule)) == 0) continue;
    if (!shapes_draw(rule)) {
      own(scores);
      history_rules_.apply(rule, scores_.data(), params, place);
    } else if (draws) {
      draw();
      candidates_.apply(rule, params, mu, coin);
    }
  }
  if (draws) draw();
  if (!draws) settle(scores, place);
}

Choice Sampler::next(const float* logits, const Params& params, const Place& place, State& state) {
  Scores scores = start(logits, params, place, false);
  Choice choice;
  Normaliser normaliser{};
  if (params.logprobs >= 0) {
    normaliser = normalise(logits, scores_.size(), scores.scan.largest);
    choice.top = candidates_.best(logits, block_max_.data(), static_cast<std::size_t>(params.logprobs));
    for (TokenLogprob& t : choice.top) t.second = normaliser(t.second);
  }
  apply(scores, params, place, state, true);
  if (params.temperature == 0.0) {
    choice.token =
        static_cast<std::int32_t>(first_equal(scores.x, scores_.size(), block_max_.data(), scores.scan.largest));
  } else {
    choice.token = candidates_.pick(philox_uniform(params.seed, place.alternative, place.generated, kTokenDraw));
  }
  if ((scores.active & bit(Rule::kMirostat)) != 0) {
    const double mu = std::isnan(state.mu) ? 2.0 * params.mirostat_tau : state.mu;
    state.mu = mu - params.mirostat_eta * (candidates_.surprise() - params.mirostat_tau);
  }
  if (params.logprobs >= 0) choice.logprob = normaliser(logits[choice.token]);
  return choice;
}

std::vector<TokenLogprob> Sampler::candidates(const float* logits, const Params& params, const Place& place,
                                              std::size_t k, bool normalise_first) {
  Scores scores = start(logits, params, place, normalise_first);
  apply(scores, params, place, State{}, false);
  std::vector<TokenLogprob> best = candidates_.best(scores.x, block_max_.data(), k);
  std::erase_if(best, [](const TokenLogprob& t) { return t.second == -kInf; });
  if (!params.renormalize_logits) return best;
  const Normaliser normaliser = normalise(scores.x, scores_.size(), scores.scan.largest);
  for (TokenLogprob& t : best) t.second = normaliser(t.second);
  return best;
}

void Sampler::process(const float* logits, const Params& params, const Place& place, const State& state,
                      bool normalise_first, bool with_draw_rules, float* out) {
  Scores scores = start(logits, params, place, normalise_first);
  apply(scores, params, place, state, with_draw_rules);
  if (scores.drawing) {
    candidates_.scatter_scores(out);
  } else {
    std::copy_n(scores.x, scores_.size(), out);
  }
  if (!params.renormalize_logits) return;
  const float largest = *std::max_element(out, out + scores_.size());
  std::transform(out, out + scores_.size(), out, normalise(out, scores_.size(), largest));
}

float log_softmax_at(const float* logits, std::size_t vocab_size, std::int32_t token) {
  require_ids("token", &token, 1, static_cast<int>(vocab_size));
  std::vector<float> block_max(blocks_of(vocab_size));
  const Scan s = scan(logits, vocab_size, block_max.data());
  require_usable(s);
  return normalise(logits, vocab_size, s.largest)(logits[token]);
}

std::vector<TokenLogprob> top_n(const float* logits, std::size_t vocab_size, std::size_t n) {
  Params params;
  params.logprobs = static_cast<int>(std::min<std::size_t>(n, vocab_size));
  params.temperature = 0.0;
  State state;
  return Sampler(static_cast<int>(vocab_size)).next(logits, params, {}, state).top;
}

}  // namespace gpt2::sampling
