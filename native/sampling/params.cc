#include "sampling/params.h"

#include <limits>
#include <string>

#include "base/errors.h"

namespace gpt2::sampling {
namespace {

// float32 is the arithmetic: smaller or larger numbers would become 0 or infinity.
constexpr double kMax = static_cast<double>(std::numeric_limits<float>::max());
constexpr double kMin = static_cast<double>(std::numeric_limits<float>::min());
constexpr double kInf = std::numeric_limits<double>::infinity();

[[noreturn]] void refuse(const char* field, const std::string& got, const std::string& expected) {
  throw Error(ErrorKind::kInvalidRequest, field, got, expected);
}

void require(bool fine, const char* field, double got, const char* expected) {
  if (!fine) refuse(field, std::to_string(got), expected);
}

bool within(double v, double low, double high) { return v >= low && v <= high; }  // NaN is not

void require_at_least(const char* field, int got, int least) {
  if (got < least) refuse(field, std::to_string(got), std::to_string(least) + " or more");
}

void require_ids(const char* field, const Ids& ids, int vocab_size) {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size)
      refuse(field, std::to_string(id), "an id in [0, " + std::to_string(vocab_size) + ")");
  }
}

void require_sequence(const char* field, const Ids& ids, int vocab_size) {
  if (ids.empty()) refuse(field, "an empty sequence", "at least one id");
  require_ids(field, ids, vocab_size);
}

void check_draw(const Params& p) {
  const char* const kFraction = "a number in [0, 1]";
  require(p.temperature == 0.0 || within(p.temperature, kMin, kMax), "temperature", p.temperature,
          "0 or a positive number");
  require(within(p.dynatemp_range, 0.0, kMax), "dynatemp_range", p.dynatemp_range, "0 or a positive number");
  require(within(p.dynatemp_exponent, 0.0, kMax), "dynatemp_exponent", p.dynatemp_exponent, "0 or a positive number");
  require(within(p.top_n_sigma, 0.0, kMax), "top_n_sigma", p.top_n_sigma, "0 or a positive number");
  require(within(p.top_h, 0.0, 1.0), "top_h", p.top_h, kFraction);
  require_at_least("top_k", p.top_k, 0);
  require(p.top_p > 0.0 && p.top_p <= 1.0, "top_p", p.top_p, "a number in (0, 1]");
  require(within(p.min_p, 0.0, 1.0), "min_p", p.min_p, kFraction);
  require(p.typical_p > 0.0 && p.typical_p <= 1.0, "typical_p", p.typical_p, "a number in (0, 1]");
  require(p.epsilon_cutoff >= 0.0 && p.epsilon_cutoff < 1.0, "epsilon_cutoff", p.epsilon_cutoff, "a number in [0, 1)");
  require(p.eta_cutoff >= 0.0 && p.eta_cutoff < 1.0, "eta_cutoff", p.eta_cutoff, "a number in [0, 1)");
  require(within(p.xtc_probability, 0.0, 1.0), "xtc_probability", p.xtc_probability, kFraction);
  require(p.xtc_threshold > 0.0 && p.xtc_threshold <= 1.0, "xtc_threshold", p.xtc_threshold, "a number in (0, 1]");
  if (p.mirostat < 0 || p.mirostat > 2) refuse("mirostat", std::to_string(p.mirostat), "0, 1 or 2");
  require(within(p.mirostat_tau, 0.0, kMax), "mirostat_tau", p.mirostat_tau, "0 or a positive number");
  require(within(p.mirostat_eta, 0.0, kMax), "mirostat_eta", p.mirostat_eta, "0 or a positive number");
  require_at_least("min_tokens_to_keep", p.min_tokens_to_keep, 1);
}

void check_history(const Params& p) {
  require(within(p.repetition_penalty, kMin, kMax), "repetition_penalty", p.repetition_penalty, "a positive number");
  require(within(p.frequency_penalty, -kMax, kMax), "frequency_penalty", p.frequency_penalty, "a finite number");
  require(within(p.presence_penalty, -kMax, kMax), "presence_penalty", p.presence_penalty, "a finite number");
  require_at_least("repeat_last_n", p.repeat_last_n, -1);
  require(within(p.dry_multiplier, 0.0, kMax), "dry_multiplier", p.dry_multiplier, "0 or a positive number");
  require(within(p.dry_base, 1.0, kMax), "dry_base", p.dry_base, "1 or more");
  require_at_least("dry_allowed_length", p.dry_allowed_length, 1);
  require_at_least("dry_penalty_last_n", p.dry_penalty_last_n, -1);
  require_at_least("no_repeat_ngram_size", p.no_repeat_ngram_size, 0);
  require_at_least("exponential_decay_length_penalty", p.exponential_decay_start, -1);
  require(within(p.exponential_decay_factor, kMin, kMax), "exponential_decay_length_penalty",
          p.exponential_decay_factor, "a positive factor");
  require_at_least("min_length", p.min_length, 0);
  require_at_least("min_new_tokens", p.min_new_tokens, 0);
  require_at_least("logprobs", p.logprobs, -1);
}

void check_ids(const Params& p, int vocab_size) {
  const auto finite_or_ban = [](const char* field, float bias) {
    require(bias < static_cast<float>(kInf), field, static_cast<double>(bias), "a finite number or -inf");
  };
  for (const auto& [id, bias] : p.logit_bias) {
    require_ids("logit_bias", {&id, &id + 1}, vocab_size);
    finite_or_ban("logit_bias", bias);
  }
  for (const auto& [ids, bias] : p.sequence_bias) {
    require_sequence("sequence_bias", ids, vocab_size);
    finite_or_ban("sequence_bias", bias);
  }
  for (const Ids& ids : p.bad_words_ids) require_sequence("bad_words_ids", ids, vocab_size);
  for (const Ids& ids : p.dry_sequence_breakers) require_sequence("dry_sequence_breakers", ids, vocab_size);
  require_ids("suppress_tokens", p.suppress_tokens, vocab_size);
  require_ids("begin_suppress_tokens", p.begin_suppress_tokens, vocab_size);
  if (p.forced_bos_token_id < -1 || p.forced_bos_token_id >= vocab_size)
    refuse("forced_bos_token_id", std::to_string(p.forced_bos_token_id), "an id of the vocabulary");
  require_ids("forced_eos_token_id", p.forced_eos_token_id, vocab_size);
  for (const auto& [position, id] : p.forced_decoder_ids) {
    require_at_least("forced_decoder_ids", position, 0);
    if (id < 0 || id >= vocab_size) refuse("forced_decoder_ids", std::to_string(id), "an id of the vocabulary");
  }
  require_ids("stop_token_ids", p.stop_token_ids, vocab_size);
  require_ids("eos_token_ids", p.eos_token_ids, vocab_size);
}

}  // namespace

const char* rule_name(Rule r) {
  constexpr std::array<const char*, kRules> kNames = {"logit_bias",
                                                      "sequence_bias",
                                                      "repetition_penalty",
                                                      "frequency_penalty",
                                                      "presence_penalty",
                                                      "dry_multiplier",
                                                      "no_repeat_ngram_size",
                                                      "bad_words_ids",
                                                      "min_length",
                                                      "min_new_tokens",
                                                      "forced_bos_token_id",
                                                      "forced_eos_token_id",
                                                      "exponential_decay_length_penalty",
                                                      "suppress_tokens",
                                                      "begin_suppress_tokens",
                                                      "forced_decoder_ids",
                                                      "temperature",
                                                      "top_n_sigma",
                                                      "top_h",
                                                      "top_k",
                                                      "top_p",
                                                      "min_p",
                                                      "typical_p",
                                                      "epsilon_cutoff",
                                                      "eta_cutoff",
                                                      "xtc_probability",
                                                      "mirostat"};
  return kNames[static_cast<std::size_t>(r)];
}

void check(const Params& p, int vocab_size) {
  std::uint32_t met = 0;
  for (const Rule r : p.order) {
    if (static_cast<std::size_t>(r) < kRules) met |= bit(r);
  }
  if (met != (1u << kRules) - 1) refuse("sampler_order", "a rule twice", "every rule once");
  check_draw(p);
  check_history(p);
  check_ids(p, vocab_size);
}

std::uint32_t active_rules(const Params& p) {
  const auto if_ = [](bool on, Rule r) { return on ? bit(r) : 0u; };
  std::uint32_t active =
      if_(!p.logit_bias.empty(), Rule::kLogitBias) | if_(!p.sequence_bias.empty(), Rule::kSequenceBias) |
      if_(p.repetition_penalty != 1.0, Rule::kRepetitionPenalty) |
      if_(p.frequency_penalty != 0.0, Rule::kFrequencyPenalty) |
      if_(p.presence_penalty != 0.0, Rule::kPresencePenalty) | if_(p.dry_multiplier > 0.0, Rule::kDry) |
      if_(p.no_repeat_ngram_size > 0, Rule::kNoRepeatNgram) | if_(!p.bad_words_ids.empty(), Rule::kBadWords) |
      if_(p.min_length > 0, Rule::kMinLength) | if_(p.min_new_tokens > 0, Rule::kMinNewTokens) |
      if_(p.forced_bos_token_id >= 0, Rule::kForcedBos) | if_(!p.forced_eos_token_id.empty(), Rule::kForcedEos) |
      if_(p.exponential_decay_start >= 0, Rule::kExponentialDecay) |
      if_(!p.suppress_tokens.empty(), Rule::kSuppressTokens) |
      if_(!p.begin_suppress_tokens.empty(), Rule::kBeginSuppressTokens) |
      if_(!p.forced_decoder_ids.empty(), Rule::kForcedDecoderIds);
  if (p.temperature == 0.0) return active;
  return active | if_(p.temperature != 1.0 || p.dynatemp_range > 0.0, Rule::kTemperature) |
         if_(p.top_n_sigma > 0.0, Rule::kTopNSigma) | if_(p.top_h > 0.0, Rule::kTopH) | if_(p.top_k > 0, Rule::kTopK) |
         if_(p.top_p < 1.0, Rule::kTopP) | if_(p.min_p > 0.0, Rule::kMinP) | if_(p.typical_p < 1.0, Rule::kTypicalP) |
         if_(p.epsilon_cutoff > 0.0, Rule::kEpsilonCutoff) | if_(p.eta_cutoff > 0.0, Rule::kEtaCutoff) |
         if_(p.xtc_probability > 0.0, Rule::kXtc) | if_(p.mirostat > 0, Rule::kMirostat);
}

}  // namespace gpt2::sampling
