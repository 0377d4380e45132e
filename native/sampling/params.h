// The options of one request that the sampler sees, and the list of its rules.
//
// gpt2.decoding.SamplingParams is where a caller meets them; its page (docs/reference/sampling.md) has formula, paper
// and range of each. Here is what the arithmetic needs: ids instead of words, numbers instead of "off".
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace gpt2::sampling {

// In the order in which they are applied unless a request has its own: that of transformers' generate(), with the rules
// that only llama.cpp has where llama.cpp has them. Those before kTemperature change or ban scores by the history;
// those from kTemperature on shape the draw and do nothing when temperature is 0.
enum class Rule : std::uint8_t {
  kLogitBias,
  kSequenceBias,
  kRepetitionPenalty,
  kFrequencyPenalty,
  kPresencePenalty,
  kDry,
  kNoRepeatNgram,
  kBadWords,
  kMinLength,
  kMinNewTokens,
  kForcedBos,
  kForcedEos,
  kExponentialDecay,
  kSuppressTokens,
  kBeginSuppressTokens,
  kForcedDecoderIds,
  kTemperature,
  kTopNSigma,
  kTopH,
  kTopK,
  kTopP,
  kMinP,
  kTypicalP,
  kEpsilonCutoff,
  kEtaCutoff,
  kXtc,
  kMirostat,
};
inline constexpr std::size_t kRules = static_cast<std::size_t>(Rule::kMirostat) + 1;

constexpr bool shapes_draw(Rule r) { return r >= Rule::kTemperature; }
constexpr std::uint32_t bit(Rule r) { return 1u << static_cast<unsigned>(r); }

// The name of a rule is that of the option that switches it on.
const char* rule_name(Rule r);

using Order = std::array<Rule, kRules>;

constexpr Order default_order() {
  Order order{};
  for (std::size_t i = 0; i < kRules; ++i) order[i] = static_cast<Rule>(i);
  return order;
}

using Ids = std::vector<std::int32_t>;

struct Params {
  Order order = default_order();  // a permutation

  double temperature = 1.0;  // 0: greedy
  double dynatemp_range = 0.0, dynatemp_exponent = 1.0;
  double top_n_sigma = 0.0;  // 0: off
  double top_h = 0.0;        // 0: off
  int top_k = 0;             // 0: off; more than V is V
  double top_p = 1.0;
  double min_p = 0.0;
  double typical_p = 1.0;
  double epsilon_cutoff = 0.0, eta_cutoff = 0.0;
  double xtc_probability = 0.0, xtc_threshold = 0.1;
  int mirostat = 0;  // 0: off; 1; 2
  double mirostat_tau = 5.0, mirostat_eta = 0.1;
  int min_tokens_to_keep = 1;

  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0, presence_penalty = 0.0;
  int repeat_last_n = -1;  // of the history, for the three; -1: all
  double dry_multiplier = 0.0, dry_base = 1.75;
  int dry_allowed_length = 2, dry_penalty_last_n = -1;
  std::vector<Ids> dry_sequence_breakers;
  int no_repeat_ngram_size = 0;  // 0: off

  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::pair<Ids, float>> sequence_bias;
  std::vector<Ids> bad_words_ids;
  Ids suppress_tokens, begin_suppress_tokens;
  int forced_bos_token_id = -1;                                           // -1: none
  Ids forced_eos_token_id;                                                // any of them
  std::vector<std::pair<std::int32_t, std::int32_t>> forced_decoder_ids;  // (position in the whole text, id)
  int exponential_decay_start = -1;                                       // -1: off
  double exponential_decay_factor = 1.0;

  int min_length = 0, min_new_tokens = 0;
  int max_length = -1, max_new_tokens = -1;  // for forced_eos_token_id: where the text will end; -1: not known
  bool renormalize_logits = false;

  Ids stop_token_ids;  // with the end-of-text ids, unless they are to be ignored
  Ids eos_token_ids;   // the end-of-text ids alone
  std::uint64_t seed = 0;
  int logprobs = -1;  // -1: none; 0: of the chosen token; k: of the k most probable too
};

// Throws kInvalidRequest, naming the field, for a value outside its range or an id outside [0, vocab_size).
void check(const Params& params, int vocab_size);

// Bits of the rules that are switched on; those that shape the draw only where temperature is not 0.
std::uint32_t active_rules(const Params& params);

}  // namespace gpt2::sampling
