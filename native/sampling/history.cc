#include "sampling/history.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gpt2::sampling {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

float& at(float* scores, std::int32_t id) { return scores[static_cast<std::size_t>(id)]; }

void ban(float* scores, const Ids& ids) {
  for (const std::int32_t id : ids) at(scores, id) = kBanned;
}

// Only `ids` may come.
void force(float* scores, std::size_t vocab_size, const std::int32_t* ids, std::size_t n) {
  std::fill_n(scores, vocab_size, kBanned);
  for (std::size_t i = 0; i < n; ++i) at(scores, ids[i]) = 0.0f;
}

// Whether the history ends with all of `sequence` but its last id.
bool one_short_of(const Place& place, const Ids& sequence) {
  const std::size_t n = sequence.size() - 1;
  return place.length >= n && std::equal(sequence.begin(), sequence.end() - 1, place.history + place.length - n);
}

// -inf for each id that would complete an n-gram that the history already holds (arXiv:1705.04304). n >= 1; n == 1 bans
// every id of the history.
void ban_repeated_ngrams(float* scores, const Place& place, std::size_t n) {
  if (place.length < n) return;
  const std::int32_t* tail = place.history + place.length - (n - 1);  // what the next id would follow
  for (std::size_t start = 0; start + n <= place.length; ++start) {
    if (std::equal(tail, tail + (n - 1), place.history + start)) at(scores, place.history[start + n - 1]) = kBanned;
  }
}

// The end-of-text ids gain |score| * (factor^i - 1) at the i-th token after `start`, as transformers does.
void decay(float* scores, const Params& params, const Place& place) {
  const std::size_t start = static_cast<std::size_t>(params.exponential_decay_start);
  if (place.generated <= start) return;
  const double gain = std::pow(params.exponential_decay_factor, static_cast<double>(place.generated - start)) - 1.0;
  for (const std::int32_t id : params.eos_token_ids) {
    float& score = at(scores, id);
    // Beyond float32 it is the largest: certain, where infinity would be an error.
    if (score != kBanned) {
      const double most = static_cast<double>(std::numeric_limits<float>::max());
      const double now = static_cast<double>(score);
      score = static_cast<float>(std::clamp(now + std::abs(now) * gain, -most, most));
    }
  }
}

bool at_last_token(const Params& params, const Place& place) {
  const auto is = [](std::size_t n, int limit) { return limit > 0 && n + 1 == static_cast<std::size_t>(limit); };
  return is(place.generated, params.max_new_tokens) || is(place.length, params.max_length);
}

void force_token(Rule rule, float* scores, std::size_t vocab_size, const Params& params, const Place& place) {
  if (rule == Rule::kForcedBos && place.length == 1) force(scores, vocab_size, &params.forced_bos_token_id, 1);
  if (rule == Rule::kForcedEos && at_last_token(params, place))
    force(scores, vocab_size, params.forced_eos_token_id.data(), params.forced_eos_token_id.size());
  if (rule != Rule::kForcedDecoderIds) return;
  for (const auto& [position, id] : params.forced_decoder_ids) {
    if (static_cast<std::size_t>(position) == place.length) force(scores, vocab_size, &id, 1);
  }
}

// How many ids at the end of the window may take part in a repetition: those after the last sequence breaker.
std::size_t after_breaker(const std::int32_t* ids, std::size_t length, const std::vector<Ids>& breakers) {
  for (std::size_t back = 0; back < length; ++back) {
    const std::int32_t* end = ids + length - back;
    for (const Ids& breaker : breakers) {
      const std::size_t n = breaker.size();
      if (n <= length - back && std::equal(breaker.begin(), breaker.end(), end - n)) return back;
    }
  }
  return length;
}

}  // namespace

void ban_unmasked(float* scores, std::size_t n, const std::uint32_t* mask) {
  for (std::size_t start = 0; start < n; start += 32) {
    const std::uint32_t word = mask[start / 32];
    if (word == ~0u) continue;
    const std::size_t end = std::min(start + 32, n);
    for (std::size_t i = start; i < end; ++i) scores[i] = (word >> (i - start) & 1u) != 0 ? scores[i] : kBanned;
  }
}

// Each id once: score < 0 ? score * penalty : score / penalty (arXiv:1909.05858).
void HistoryRules::repetition(float* scores, Window window, float penalty) {
  for (std::size_t i = 0; i < window.length; ++i) {
    if (count_[static_cast<std::size_t>(window.ids[i])]++ != 0) continue;
    float& score = at(scores, window.ids[i]);
    score = score < 0.0f ? score * penalty : score / penalty;
  }
  for (std::size_t i = 0; i < window.length; ++i) count_[static_cast<std::size_t>(window.ids[i])] = 0;
}

// score - count * frequency - (count > 0) * presence
void HistoryRules::frequency_or_presence(float* scores, Window window, float frequency, float presence) {
  for (std::size_t i = 0; i < window.length; ++i) ++count_[static_cast<std::size_t>(window.ids[i])];
  for (std::size_t i = 0; i < window.length; ++i) {
    std::uint32_t& count = count_[static_cast<std::size_t>(window.ids[i])];
    if (count == 0) continue;  // done already
    at(scores, window.ids[i]) -= static_cast<float>(count) * frequency + presence;
    count = 0;
  }
}

// For each place in the window: how long a run that ends just before it is the same as the window's end (never counting
// back beyond a sequence breaker). The token there would make the run longer by one, so the longest run per token is
// punished: multiplier * base^(run - allowed_length), as llama.cpp's documentation has it.
//
// The runs are the Z-function of the window read backwards: each is found by looking up the one at the mirrored place
// of the match that covers it, so that all together are linear in the window.
void HistoryRules::dry(float* scores, const Params& params, Window window) {
  const std::size_t n = window.length, allowed = static_cast<std::size_t>(params.dry_allowed_length);
  const std::size_t limit = after_breaker(window.ids, n, params.dry_sequence_breakers);
  if (n < 2 || limit < allowed) return;
  const std::int32_t* last = window.ids + n - 1;
  if (repeated_.size() < n) repeated_.resize(2 * n);
  std::size_t left = 0, right = 0;  // the match that reaches furthest back: [left, right) from the end
  for (std::size_t i = 1; i < n; ++i) {
    std::size_t run = i < right ? std::min<std::size_t>(right - i, repeated_[i - left]) : 0;
    while (i + run < n && last[-static_cast<std::ptrdiff_t>(run)] == last[-static_cast<std::ptrdiff_t>(i + run)]) ++run;
    if (i + run > right) left = i, right = i + run;
    repeated_[i] = static_cast<std::uint32_t>(run);
  }
  for (std::size_t i = 1; i < n; ++i) {
    const std::uint32_t run = static_cast<std::uint32_t>(std::min<std::size_t>(repeated_[i], limit));
    std::uint32_t& longest = count_[static_cast<std::size_t>(last[1 - static_cast<std::ptrdiff_t>(i)])];
    if (run >= allowed) longest = std::max(longest, run);
  }
  // base^x beyond float32 would make the score -inf, so x ends there.
  const double most = params.dry_base > 1.000001 ? std::floor(88.7228391 / std::log(params.dry_base)) : 1e9;
  for (std::size_t i = 1; i < n; ++i) {
    const std::int32_t id = last[1 - static_cast<std::ptrdiff_t>(i)];
    std::uint32_t& longest = count_[static_cast<std::size_t>(id)];
    if (longest == 0) continue;
    const double exponent = std::min(static_cast<double>(longest - allowed), most);
    at(scores, id) -= static_cast<float>(params.dry_multiplier * std::pow(params.dry_base, exponent));
    longest = 0;
  }
}

void HistoryRules::apply(Rule rule, float* scores, const Params& params, const Place& place) {
  const auto window = [&](int last_n, std::size_t most) {
    const std::size_t n = last_n < 0 ? most : std::min(most, static_cast<std::size_t>(last_n));
    return Window{place.history + place.length - n, n};
  };
  const auto is = [](std::size_t n, int limit) { return n < static_cast<std::size_t>(limit); };
  const std::size_t generated = std::min(place.generated, place.length);
  switch (rule) {
    case Rule::kLogitBias:
      for (const auto& [id, bias] : params.logit_bias) at(scores, id) += bias;
      return;
    case Rule::kSequenceBias:
      for (const auto& [sequence, bias] : params.sequence_bias) {
        if (one_short_of(place, sequence)) at(scores, sequence.back()) += bias;
      }
      return;
    case Rule::kRepetitionPenalty:
      return repetition(scores, window(params.repeat_last_n, place.length),
                        static_cast<float>(params.repetition_penalty));
    case Rule::kFrequencyPenalty:
      return frequency_or_presence(scores, window(params.repeat_last_n, generated),
                                   static_cast<float>(params.frequency_penalty), 0.0f);
    case Rule::kPresencePenalty:
      return frequency_or_presence(scores, window(params.repeat_last_n, generated), 0.0f,
                                   static_cast<float>(params.presence_penalty));
    case Rule::kDry: return dry(scores, params, window(params.dry_penalty_last_n, place.length));
    case Rule::kNoRepeatNgram:
      return ban_repeated_ngrams(scores, place, static_cast<std::size_t>(params.no_repeat_ngram_size));
    case Rule::kBadWords:
      for (const Ids& word : params.bad_words_ids) {
        if (one_short_of(place, word)) at(scores, word.back()) = kBanned;
      }
      return;
    case Rule::kMinLength:
      if (is(place.length, params.min_length)) ban(scores, params.stop_token_ids);
      return;
    case Rule::kMinNewTokens:
      if (is(place.generated, params.min_new_tokens)) ban(scores, params.stop_token_ids);
      return;
    case Rule::kForcedBos:
    case Rule::kForcedEos:
    case Rule::kForcedDecoderIds: return force_token(rule, scores, count_.size(), params, place);
    case Rule::kExponentialDecay: return decay(scores, params, place);
    case Rule::kSuppressTokens: return ban(scores, params.suppress_tokens);
    case Rule::kBeginSuppressTokens:
      // With a forced first token, what begins the text is the one after it (transformers counts so too).
      if (place.generated == (place.length - generated == 1 && params.forced_bos_token_id >= 0 ? 1u : 0u))
        ban(scores, params.begin_suppress_tokens);
      return;
    default: return;  // shapes the draw: candidates.h
  }
}

}  // namespace gpt2::sampling
