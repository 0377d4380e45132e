#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "base/errors.h"
#include "base/philox.h"
#include "sampling/exp.h"
#include "sampling/penalties.h"
#include "sampling/scan.h"

namespace gpt2::sampling {

namespace {

// 64 buckets per unit of z down to z = -32 (weight 1e-14); the last one takes all below. Fine enough that the bucket
// in which top_p is crossed holds few tokens, small enough (16 KiB) to stay in the first cache.
constexpr int kBuckets = 2048;
constexpr float kBucketsPerUnit = 64.0f;

// Up to this many candidates are sorted at once; more are first put into buckets.
constexpr std::size_t kSortAtOnce = 128;

constexpr double kNoBound = -std::numeric_limits<double>::infinity();

int bucket_of(float z) {
  return z > -(kBuckets - 1) / kBucketsPerUnit ? static_cast<int>(z * -kBucketsPerUnit) : kBuckets - 1;
}

// Turns logits into log-probabilities. Largest and log stay apart: in their sum, logits of 1e17 would swallow the log.
struct Normaliser {
  double largest;
  double log_sum;  // log of the sum of exp(x - largest)
  float operator()(float x) const { return static_cast<float>((static_cast<double>(x) - largest) - log_sum); }
};

Normaliser normalise(const float* logits, std::size_t n, float largest) {
  return {static_cast<double>(largest), std::log(sum_exp(logits, n, ToExponent{largest, 1.0f}, nullptr))};
}

}  // namespace

// Candidates are z and id side by side, in the order of the id, from 0 to `count`.
struct Workspace {
  explicit Workspace(std::size_t vocab_size)
      : scores(vocab_size),
        z(vocab_size),
        weight(vocab_size),
        id(vocab_size),
        order(vocab_size),
        block_max(blocks_of(vocab_size)),
        block_sum(blocks_of(vocab_size)),
        bucket_mass(kBuckets),
        seen(vocab_size) {}

  void keep_largest(const float* x, std::size_t n, ToExponent to_z, std::size_t k);
  void keep_mass(double p, double total);
  template <typename Keep>
  void keep_if(const Keep& keep);
  double weigh();
  std::int32_t pick(double u, double total) const;
  std::int32_t pick_from_all(const float* x, std::size_t n, ToExponent to_z, double u);
  std::vector<TokenLogprob> best(const float* x, std::size_t n, std::size_t k, const Normaliser& normaliser);

  std::vector<float> scores, z, weight;
  std::vector<std::int32_t> id, order;
  std::vector<float> block_max;
  std::vector<double> block_sum, bucket_mass;
  SeenSet seen;
  std::size_t count = 0;
};

template <typename Keep>
void Workspace::keep_if(const Keep& keep) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const bool stays = keep(i);
    z[kept] = z[i];
    id[kept] = id[i];
    kept += stays ? 1 : 0;
  }
  count = kept;
}

// The candidates become the k largest of x [n], and every one that equals the k-th.
//
// The k-th largest block maximum is a lower bound of the k-th largest value, since k values reach it. So only the
// blocks that reach it are looked at.
void Workspace::keep_largest(const float* x, std::size_t n, ToExponent to_z, std::size_t k) {
  double bound = kNoBound;
  const std::size_t blocks = block_max.size();
  if (k <= blocks) {
    std::copy(block_max.begin(), block_max.end(), weight.begin());
    const auto kth = weight.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(weight.begin(), kth, weight.begin() + static_cast<std::ptrdiff_t>(blocks), std::greater<>());
    bound = static_cast<double>(to_z(*kth));
  }
  count = gather(x, n, block_max.data(), to_z, bound, z.data(), id.data());
  if (count <= k) return;
  std::copy_n(z.begin(), count, weight.begin());
  const auto kth = weight.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(weight.begin(), kth, weight.begin() + static_cast<std::ptrdiff_t>(count), std::greater<>());
  const float smallest = *kth;
  keep_if([&](std::size_t i) { return z[i] >= smallest; });
}

// weight[i] = exp(z[i]) of the candidates; returns their sum.
double Workspace::weigh() {
  exp_all(z.data(), count, weight.data());
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i) total += static_cast<double>(weight[i]);
  return total;
}

// Rule 6. weight[] must be set. total: the weight of all tokens that take part, of which the candidates may be only the
// largest. Buckets are ordered by z, so only the one in which p * total is crossed has to be sorted.
void Workspace::keep_mass(double p, double total) {
  const double target = p * total;
  double mass = 0.0;
  std::size_t in_bucket = 0;
  if (count <= kSortAtOnce) {
    std::iota(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), 0);
    in_bucket = count;
  } else {
    std::fill(bucket_mass.begin(), bucket_mass.end(), 0.0);
    for (std::size_t i = 0; i < count; ++i)
      bucket_mass[static_cast<std::size_t>(bucket_of(z[i]))] += static_cast<double>(weight[i]);
    int crossed = 0;
    while (crossed < kBuckets - 1 && mass + bucket_mass[static_cast<std::size_t>(crossed)] < target) {
      mass += bucket_mass[static_cast<std::size_t>(crossed++)];
    }
    for (std::size_t i = 0; i < count; ++i) {
      order[in_bucket] = static_cast<std::int32_t>(i);
      in_bucket += bucket_of(z[i]) == crossed ? 1 : 0;
    }
  }
  if (in_bucket == 0) return;  // rounding: the buckets above were just short of the target, and nothing is below
  const auto better = [this](std::int32_t a, std::int32_t b) {
    const float za = z[static_cast<std::size_t>(a)], zb = z[static_cast<std::size_t>(b)];
    return za != zb ? za > zb : a < b;
  };
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(in_bucket), better);
  std::size_t last = 0;  // the place in `order` of the last token that stays
  for (std::size_t i = 0; i < in_bucket && mass < target; ++i) {
    last = i;
    mass += static_cast<double>(weight[static_cast<std::size_t>(order[i])]);
  }
  const std::size_t cut = static_cast<std::size_t>(order[last]);
  const float cut_z = z[cut];
  keep_if([&](std::size_t i) { return z[i] > cut_z || (z[i] == cut_z && i <= cut); });
}

// The first candidate whose cumulative weight exceeds u * total. weight[] must be set.
std::int32_t Workspace::pick(double u, double total) const {
  const double target = u * total;
  double mass = 0.0;
  std::int32_t chosen = -1;
  for (std::size_t i = 0; i < count; ++i) {
    if (weight[i] == 0.0f) continue;
    chosen = id[i];
    mass += static_cast<double>(weight[i]);
    if (mass > target) break;
  }
  return chosen;
}

// The same over all of x [n]: whole blocks by their sum first, then the one block that matters token by token.
std::int32_t Workspace::pick_from_all(const float* x, std::size_t n, ToExponent to_z, double u) {
  const double target = u * sum_exp(x, n, to_z, block_sum.data());
  double mass = 0.0;
  std::size_t block = 0, chosen_block = 0;
  for (double before = 0.0; block < block_sum.size(); ++block) {
    if (block_sum[block] == 0.0) continue;
    chosen_block = block;
    mass = before;
    before += block_sum[block];
    if (before > target) break;
  }
  std::int32_t chosen = -1;
  const std::size_t end = std::min((chosen_block + 1) * kBlock, n);
  for (std::size_t i = chosen_block * kBlock; i < end; ++i) {
    const float w = exp_nonpositive(to_z(x[i]));
    if (w == 0.0f) continue;
    chosen = static_cast<std::int32_t>(i);
    mass += static_cast<double>(w);
    if (mass > target) break;
  }
  return chosen;
}

// The k most probable of x [n] with their log-probabilities. Uses block_max of x.
std::vector<TokenLogprob> Workspace::best(const float* x, std::size_t n, std::size_t k, const Normaliser& normaliser) {
  k = std::min(k, n);
  std::vector<TokenLogprob> top;
  if (k == 0) return top;
  keep_largest(x, n, ToExponent{0.0f, 1.0f}, k);
  top.reserve(count);
  for (std::size_t i = 0; i < count; ++i) top.emplace_back(id[i], z[i]);
  std::partial_sort(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(k), top.end(),
                    [](const TokenLogprob& a, const TokenLogprob& b) {
                      return a.second != b.second ? a.second > b.second : a.first < b.first;
                    });
  top.resize(k);
  for (TokenLogprob& t : top) t.second = normaliser(t.second);
  return top;
}

namespace {

void require_usable(const Scan& s) {
  if (s.has_nan_or_inf) {
    throw Error(ErrorKind::kEngine, "logits", "NaN or +inf among them", "finite numbers or -inf",
                "the weights are damaged, or overflow in this dtype; try weights=\"float32\"");
  }
  if (s.largest == -std::numeric_limits<float>::infinity()) {
    throw Error(ErrorKind::kEngine, "logits", "-inf for every token", "at least one finite number",
                "the weights are damaged, or overflow in this dtype; try weights=\"float32\"");
  }
}

[[noreturn]] void refuse(const char* field, const std::string& got, const char* expected) {
  throw Error(ErrorKind::kInvalidRequest, field, got, expected);
}

void require_ids(const char* field, const std::int32_t* ids, std::size_t n, int vocab_size) {
  for (std::size_t i = 0; i < n; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      throw Error(ErrorKind::kInvalidRequest, field, std::to_string(ids[i]),
                  "an id in [0, " + std::to_string(vocab_size) + ")");
    }
  }
}

// Bans the tokens whose bit is not set.
void ban_unmasked(float* scores, std::size_t n, const std::uint32_t* mask) {
  for (std::size_t start = 0; start < n; start += 32) {
    const std::uint32_t word = mask[start / 32];
    if (word == ~0u) continue;
    const std::size_t end = std::min(start + 32, n);
    for (std::size_t i = start; i < end; ++i) {
      scores[i] = (word >> (i - start) & 1u) != 0 ? scores[i] : -std::numeric_limits<float>::infinity();
    }
  }
}

// Rules 4 to 7 for temperature > 0: the candidates that are left, unless every token is. Then returns false.
bool draw_rules(Workspace& work, const float* scores, const Params& params, ToExponent to_z) {
  const std::size_t vocab_size = work.scores.size();
  const bool top_k = params.top_k > 0 && static_cast<std::size_t>(params.top_k) < vocab_size;
  const bool top_p = params.top_p < 1.0;
  const double min_z = params.min_p > 0.0 ? std::log(params.min_p) : kNoBound;
  if (!top_k && !top_p && params.min_p == 0.0) return false;

  double total = 0.0;
  if (top_k) {
    work.keep_largest(scores, vocab_size, to_z, static_cast<std::size_t>(params.top_k));
    if (top_p) total = work.weigh();
  } else {
    double bound = min_z;
    if (top_p) {
      // V tokens lighter than (1 - p) total / V weigh less than (1 - p) total together, so none of them can be kept.
      // The margin covers the rounding of the weights.
      total = sum_exp(scores, vocab_size, to_z, nullptr);
      bound = std::log((1.0 - params.top_p) * total / static_cast<double>(vocab_size)) - 1e-3;
    }
    work.count = gather(scores, vocab_size, work.block_max.data(), to_z, bound, work.z.data(), work.id.data());
    if (top_p) work.weigh();
  }
  if (top_p) work.keep_mass(params.top_p, total);
  if (params.min_p > 0.0) work.keep_if([&](std::size_t i) { return static_cast<double>(work.z[i]) >= min_z; });
  return true;
}

// Rules 4 to 8.
std::int32_t draw(Workspace& work, const float* scores, const Params& params, float largest, double u) {
  const ToExponent to_z{largest, static_cast<float>(params.temperature)};
  if (!draw_rules(work, scores, params, to_z)) return work.pick_from_all(scores, work.scores.size(), to_z, u);
  const double total = work.weigh();
  return work.pick(u, total);
}

}  // namespace

void check(const Params& p, int vocab_size) {
  // Written so that NaN fails. The range of float matters, because the arithmetic is float32.
  constexpr double kMax = static_cast<double>(std::numeric_limits<float>::max());
  constexpr double kMin = static_cast<double>(std::numeric_limits<float>::min());
  const auto within = [](double v, double low, double high) { return v >= low && v <= high; };
  if (p.temperature != 0.0 && !within(p.temperature, kMin, kMax)) {
    refuse("temperature", std::to_string(p.temperature), "0 or a positive number");
  }
  if (p.top_k < 0) refuse("top_k", std::to_string(p.top_k), "0 or more");
  if (!(p.top_p > 0.0 && p.top_p <= 1.0)) refuse("top_p", std::to_string(p.top_p), "a number in (0, 1]");
  if (!within(p.min_p, 0.0, 1.0)) refuse("min_p", std::to_string(p.min_p), "a number in [0, 1]");
  if (!within(p.repetition_penalty, kMin, kMax)) {
    refuse("repetition_penalty", std::to_string(p.repetition_penalty), "a positive number");
  }
  if (p.no_repeat_ngram_size < 0) refuse("no_repeat_ngram_size", std::to_string(p.no_repeat_ngram_size), "0 or more");
  if (p.min_new_tokens < 0) refuse("min_new_tokens", std::to_string(p.min_new_tokens), "0 or more");
  if (p.logprobs < -1) refuse("logprobs", std::to_string(p.logprobs), "-1 or more");
  require_ids("stop_token_ids", p.stop_token_ids.data(), p.stop_token_ids.size(), vocab_size);
}

Sampler::Sampler(int vocab_size) : vocab_size_(vocab_size) {
  if (vocab_size < 1) refuse("vocab_size", std::to_string(vocab_size), "1 or more");
  work_ = std::make_unique<Workspace>(static_cast<std::size_t>(vocab_size));
}

Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;

// The mask and rules 1 to 3 on a copy of the logits, where any is in use; returns the scores to go on with and renews
// `s`.
const float* Sampler::history_rules(const float* logits, const Params& params, const Place& place, bool normalise_first,
                                    Scan& s) {
  const std::size_t vocab_size = work_->scores.size();
  const bool keep_going =
      place.generated < static_cast<std::size_t>(params.min_new_tokens) && !params.stop_token_ids.empty();
  const bool penalise = params.repetition_penalty != 1.0;
  const bool any_rule = keep_going || penalise || params.no_repeat_ngram_size > 0;
  if (!any_rule && place.mask == nullptr && !normalise_first) return logits;
  if (any_rule) require_ids("history", place.history, place.length, vocab_size_);
  float* scores = work_->scores.data();
  if (normalise_first) {
    const Normaliser normaliser = normalise(logits, vocab_size, s.largest);
    std::transform(logits, logits + vocab_size, scores, normaliser);
  } else {
    std::copy_n(logits, vocab_size, scores);
  }
  const History history{place.history, place.length};
  if (place.mask != nullptr) ban_unmasked(scores, vocab_size, place.mask);
  if (penalise) penalise_repetition(scores, history, static_cast<float>(params.repetition_penalty), work_->seen);
  if (params.no_repeat_ngram_size > 0) {
    ban_repeated_ngrams(scores, history, static_cast<std::size_t>(params.no_repeat_ngram_size));
  }
  if (keep_going) ban(scores, params.stop_token_ids);
  s = scan(scores, vocab_size, work_->block_max.data());
  if (s.has_nan_or_inf) refuse("repetition_penalty", "a logit that overflows", "a penalty nearer to 1");
  if (s.largest == -std::numeric_limits<float>::infinity()) {
    const char* what = !any_rule ? "mask" : "no_repeat_ngram_size, min_new_tokens";
    throw Error(ErrorKind::kInvalidRequest, what, "every token banned", "rules that leave at least one token",
                "a larger no_repeat_ngram_size, or fewer stop_token_ids");
  }
  return scores;
}

Choice Sampler::next(const float* logits, const Params& params, const Place& place, State&) {
  check(params, vocab_size_);
  Workspace& work = *work_;
  const std::size_t vocab_size = work.scores.size();
  Scan s = scan(logits, vocab_size, work.block_max.data());
  require_usable(s);
  Choice choice;
  Normaliser normaliser{};
  if (params.logprobs >= 0) {
    normaliser = normalise(logits, vocab_size, s.largest);
    choice.top = work.best(logits, vocab_size, static_cast<std::size_t>(params.logprobs), normaliser);
  }
  const float* scores = history_rules(logits, params, place, false, s);
  if (params.temperature == 0.0) {
    choice.token = static_cast<std::int32_t>(first_equal(scores, vocab_size, work.block_max.data(), s.largest));
  } else {
    const double u = philox_uniform(params.seed, place.alternative, place.generated);
    choice.token = draw(work, scores, params, s.largest, u);
  }
  if (params.logprobs >= 0) choice.logprob = normaliser(logits[choice.token]);
  return choice;
}

std::vector<TokenLogprob> Sampler::candidates(const float* logits, const Params& params, const Place& place,
                                              std::size_t k, bool normalise_first) {
  check(params, vocab_size_);
  const std::size_t vocab_size = work_->scores.size();
  Scan s = scan(logits, vocab_size, work_->block_max.data());
  require_usable(s);
  const float* scores = history_rules(logits, params, place, normalise_first, s);
  std::vector<TokenLogprob> best = work_->best(scores, vocab_size, k, Normaliser{0.0, 0.0});
  std::erase_if(best, [](const TokenLogprob& t) { return t.second == -std::numeric_limits<float>::infinity(); });
  return best;
}

void Sampler::process(const float* logits, const Params& params, const Place& place, const State&, bool normalise_first,
                      bool with_draw_rules, float* out) {
  check(params, vocab_size_);
  Workspace& work = *work_;
  const std::size_t vocab_size = work.scores.size();
  Scan s = scan(logits, vocab_size, work.block_max.data());
  require_usable(s);
  const float* scores = history_rules(logits, params, place, normalise_first, s);
  if (!with_draw_rules || params.temperature == 0.0) {
    std::copy_n(scores, vocab_size, out);
    return;
  }
  const float temperature = static_cast<float>(params.temperature);
  const bool some = draw_rules(work, scores, params, ToExponent{s.largest, temperature});
  if (scores != work.scores.data()) std::copy_n(scores, vocab_size, work.scores.begin());
  if (some) std::fill_n(out, vocab_size, -std::numeric_limits<float>::infinity());
  const std::size_t n = some ? work.count : vocab_size;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t token = some ? static_cast<std::size_t>(work.id[i]) : i;
    out[token] = work.scores[token] / temperature;
  }
}

float log_softmax_at(const float* logits, std::size_t vocab_size, std::int32_t token) {
  require_ids("token", &token, 1, static_cast<int>(vocab_size));
  std::vector<float> block_max(blocks_of(vocab_size));
  const Scan s = scan(logits, vocab_size, block_max.data());
  require_usable(s);
  return normalise(logits, vocab_size, s.largest)(logits[token]);
}

std::vector<TokenLogprob> top_n(const float* logits, std::size_t vocab_size, std::size_t n) {
  if (vocab_size == 0) refuse("vocab_size", "0", "1 or more");
  Workspace work(vocab_size);
  const Scan s = scan(logits, vocab_size, work.block_max.data());
  require_usable(s);
  return work.best(logits, vocab_size, n, normalise(logits, vocab_size, s.largest));
}

}  // namespace gpt2::sampling
