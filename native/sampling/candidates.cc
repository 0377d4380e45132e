#include "sampling/candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>

#include "sampling/exp.h"

namespace gpt2::sampling {
namespace {

// 64 buckets per unit of z down to z = -32 (weight 1e-14); the last one takes all below. Fine enough that the bucket
// in which top_p is crossed holds few tokens, small enough (16 KiB) to stay in the first cache.
constexpr int kBuckets = 2048;
constexpr float kBucketsPerUnit = 64.0f;

// Up to this many candidates are sorted at once; more are first put into buckets.
constexpr std::size_t kSortAtOnce = 128;

// As many as the methods look at: top_h in transformers, the estimate of mirostat 1 in its paper and in llama.cpp.
constexpr std::size_t kTopH = 100, kMirostat1 = 100;

constexpr double kNoBound = -std::numeric_limits<double>::infinity();
constexpr double kEveryFinite = -static_cast<double>(std::numeric_limits<float>::max());

int bucket_of(float z) {
  return z > -(kBuckets - 1) / kBucketsPerUnit ? static_cast<int>(z * -kBucketsPerUnit) : kBuckets - 1;
}

std::ptrdiff_t signed_(std::size_t n) { return static_cast<std::ptrdiff_t>(n); }

double entropy(const Sums& s) { return std::log(s.weight) - s.weighted_z / s.weight; }

float to_float(double v) {
  constexpr double kMost = static_cast<double>(std::numeric_limits<float>::max());
  return static_cast<float>(std::clamp(v, -kMost, kMost));
}

}  // namespace

Candidates::Candidates(std::size_t vocab_size)
    : z_(vocab_size),
      weight_(vocab_size),
      rank_(vocab_size),
      id_(vocab_size),
      order_(vocab_size),
      block_sum_(blocks_of(vocab_size)),
      bucket_mass_(kBuckets) {}

void Candidates::begin(const float* x, const float* block_max, float largest, std::size_t min_keep, double offset) {
  x_ = x, block_max_ = block_max, largest_ = largest;
  temperature_ = 1.0f;
  min_keep_ = std::min(min_keep, z_.size());
  offset_ = static_cast<double>(largest) + offset;
  whole_ = true;
  count_ = 0;
}

template <typename Keep>
void Candidates::keep_if(const Keep& keep) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count_; ++i) {
    const bool stays = keep(i);
    z_[kept] = z_[i];
    id_[kept] = id_[i];
    kept += stays ? 1 : 0;
  }
  count_ = kept;
}

// --- from all tokens to those that matter ---

// Never what is banned.
void Candidates::gather_above(double bound) {
  bound = std::max(bound, kEveryFinite);
  count_ = gather(x_, z_.size(), block_max_, to_z(), bound, z_.data(), id_.data());
  whole_ = false;
}

// A bound that at least k values of z reach: the k-th largest block maximum, since k blocks reach it.
double Candidates::at_least_k(std::size_t k) {
  const std::size_t blocks = block_sum_.size();
  if (k > blocks) return kNoBound;
  std::copy_n(block_max_, blocks, weight_.begin());
  const auto kth = weight_.begin() + signed_(k - 1);
  std::nth_element(weight_.begin(), kth, weight_.begin() + signed_(blocks), std::greater<>());
  return static_cast<double>(to_z()(*kth));
}

void Candidates::gather_largest(std::size_t k) { gather_above(at_least_k(k)); }

// The k-th largest z of the candidates, of which there are more than k. Overwrites weight_.
float Candidates::kth_largest(std::size_t k) {
  std::copy_n(z_.begin(), count_, weight_.begin());
  const auto kth = weight_.begin() + signed_(k - 1);
  std::nth_element(weight_.begin(), kth, weight_.begin() + signed_(count_), std::greater<>());
  return *kth;
}

// weight_[i] = exp(z_[i]) of the candidates; returns their sum.
double Candidates::weigh() { return exp_all(z_.data(), count_, weight_.data()); }

double Candidates::total_weight() { return whole_ ? sum_exp(x_, z_.size(), to_z(), nullptr) : weigh(); }

float Candidates::largest_z() const {
  return whole_ ? 0.0f : *std::max_element(z_.begin(), z_.begin() + signed_(count_));
}

Sums Candidates::current_sums() {
  return whole_ ? sums(x_, z_.size(), to_z()) : sums(z_.data(), count_, ToExponent{0.0f, 1.0f});
}

// The k largest z, or all where there are fewer, from the largest on.
std::vector<float>& Candidates::sorted_z(std::size_t k) {
  const bool was_whole = whole_;
  if (was_whole) gather_largest(k);
  const std::size_t n = std::min(k, count_);
  rank_.resize(count_);  // never more than V, so this allocates nothing
  std::copy_n(z_.begin(), count_, rank_.begin());
  std::partial_sort(rank_.begin(), rank_.begin() + signed_(n), rank_.end(), std::greater<>());
  rank_.resize(n);
  whole_ = was_whole;
  return rank_;
}

// --- the rules ---

void Candidates::apply(Rule rule, const Params& params, double mu, double coin) {
  switch (rule) {
    case Rule::kTemperature: return temperature(params);
    case Rule::kTopNSigma: {
      const Sums s = current_sums();
      const double n = static_cast<double>(s.count), mean = s.z / n;
      const double sigma = std::sqrt(std::max(0.0, s.z2 / n - mean * mean));
      return keep_above(static_cast<double>(largest_z()) - params.top_n_sigma * sigma);
    }
    case Rule::kTopH: return top_h(params.top_h);
    case Rule::kTopK: return top_k(static_cast<std::size_t>(params.top_k));
    case Rule::kTopP: return top_p(params.top_p);
    case Rule::kMinP: return keep_above(static_cast<double>(largest_z()) + std::log(params.min_p));
    case Rule::kTypicalP: return typical_p(params.typical_p);
    case Rule::kEpsilonCutoff: return keep_above(std::log(params.epsilon_cutoff * total_weight()));
    case Rule::kEtaCutoff: {
      const Sums s = current_sums();
      const double eta = std::min(params.eta_cutoff, std::sqrt(params.eta_cutoff) * std::exp(-entropy(s)));
      return keep_above(std::log(eta * s.weight));
    }
    case Rule::kXtc:
      if (coin < params.xtc_probability) xtc(params.xtc_threshold);
      return;
    case Rule::kMirostat:
      if (params.mirostat == 1) return mirostat_1(mu);
      return keep_above(std::log(total_weight()) - mu * std::numbers::ln2);
    default: return;  // reads the history: history.h
  }
}

// z >= bound, and at least the min_keep largest.
void Candidates::keep_above(double bound) {
  if (whole_) {
    const double least = min_keep_ > 1 ? at_least_k(min_keep_) : 0.0;  // the largest z is 0
    gather_above(std::min(bound, least));
  }
  if (count_ > min_keep_)
    bound = std::min(bound, static_cast<double>(kth_largest(min_keep_)));
  else
    bound = kNoBound;
  keep_if([&](std::size_t i) { return static_cast<double>(z_[i]) >= bound; });
}

// With a range the temperature follows the entropy, from T - range (at least 0) where one token is certain to T + range
// where all are equal.
void Candidates::temperature(const Params& params) {
  double t = params.temperature;
  if (params.dynatemp_range > 0.0) {
    const Sums s = current_sums();
    if (s.count < 2) return;
    const double low = std::max(0.0, t - params.dynatemp_range), high = t + params.dynatemp_range;
    const double part = std::clamp(entropy(s) / std::log(static_cast<double>(s.count)), 0.0, 1.0);
    t = low + (high - low) * std::pow(part, params.dynatemp_exponent);
  }
  // Where the largest was taken away (xtc, typical_p) a small temperature would leave no weight to any.
  const float largest = whole_ ? 0.0f : largest_z();
  offset_ += static_cast<double>(largest);
  const float divisor = std::max(to_float(t), std::numeric_limits<float>::min());
  if (whole_) temperature_ = divisor;
  for (std::size_t i = 0; i < count_; ++i) z_[i] = (z_[i] - largest) / divisor;
  keep_if([&](std::size_t i) { return z_[i] > -std::numeric_limits<float>::infinity(); });
  offset_ /= static_cast<double>(divisor);
}

void Candidates::top_k(std::size_t k) {
  k = std::max(k, min_keep_);
  if (k >= z_.size()) return;
  if (whole_) gather_largest(k);
  if (count_ <= k) return;
  const float smallest = kth_largest(k);
  keep_if([&](std::size_t i) { return z_[i] >= smallest; });
}

// Which candidate it is at which the weights, in order of falling rank (ties: lowest id first), first reach `target`;
// count_ if rounding lets none. weight_ must be set. Buckets are ordered by rank, so only the one in which the target
// is crossed has to be sorted.
std::size_t Candidates::crossing(const std::vector<float>& rank, double target) {
  double mass = 0.0;
  std::size_t in_bucket = 0;
  if (count_ <= kSortAtOnce) {
    std::iota(order_.begin(), order_.begin() + signed_(count_), 0);
    in_bucket = count_;
  } else {
    std::fill(bucket_mass_.begin(), bucket_mass_.end(), 0.0);
    for (std::size_t i = 0; i < count_; ++i)
      bucket_mass_[static_cast<std::size_t>(bucket_of(rank[i]))] += static_cast<double>(weight_[i]);
    int crossed = 0;
    while (crossed < kBuckets - 1 && mass + bucket_mass_[static_cast<std::size_t>(crossed)] < target) {
      mass += bucket_mass_[static_cast<std::size_t>(crossed++)];
    }
    for (std::size_t i = 0; i < count_; ++i) {
      order_[in_bucket] = static_cast<std::int32_t>(i);
      in_bucket += bucket_of(rank[i]) == crossed ? 1 : 0;
    }
  }
  if (in_bucket == 0) return count_;  // the buckets above were just short of the target, and nothing is below
  const auto better = [&rank](std::int32_t a, std::int32_t b) {
    const float ra = rank[static_cast<std::size_t>(a)], rb = rank[static_cast<std::size_t>(b)];
    return ra != rb ? ra > rb : a < b;
  };
  std::sort(order_.begin(), order_.begin() + signed_(in_bucket), better);
  std::size_t last = 0;  // the place in order_ of the last token that stays
  for (std::size_t i = 0; i < in_bucket && mass < target; ++i) {
    last = i;
    mass += static_cast<double>(weight_[static_cast<std::size_t>(order_[i])]);
  }
  return static_cast<std::size_t>(order_[last]);
}

void Candidates::top_p(double p) {
  const double total = total_weight();
  if (whole_) {
    // V tokens lighter than (1 - p) total / V weigh less than (1 - p) total together, so none of them can be kept.
    // The margin covers the rounding of the weights.
    const double bound = std::log((1.0 - p) * total / static_cast<double>(z_.size())) - 1e-3;
    gather_above(min_keep_ > 1 ? std::min(bound, at_least_k(min_keep_)) : bound);
    weigh();
  }
  const std::size_t cut = crossing(z_, p * total);
  if (cut == count_) return;
  const float cut_z = z_[cut];
  const float lowest = -std::numeric_limits<float>::infinity();
  const float least = min_keep_ == 1       ? std::numeric_limits<float>::infinity()
                      : count_ > min_keep_ ? kth_largest(min_keep_)
                                           : lowest;
  keep_if([&](std::size_t i) { return z_[i] > cut_z || (z_[i] == cut_z && i <= cut) || z_[i] >= least; });
}

// Of the 100 largest as many as have together this part of the entropy of the 100 (arXiv:2509.02510).
void Candidates::top_h(double part) {
  const std::vector<float>& best = sorted_z(kTopH);
  double total = 0.0, all = 0.0, sum = 0.0;
  for (const float z : best) total += static_cast<double>(exp_nonpositive(z));
  const auto term = [&](float z) {
    const double w = static_cast<double>(exp_nonpositive(z));
    return w > 0.0 ? -(w / total) * (static_cast<double>(z) - std::log(total)) : 0.0;
  };
  for (const float z : best) all += term(z);
  std::size_t kept = 0;
  // 1e-9: with part = 1 the sum is the whole, however it was rounded.
  for (; kept < best.size(); ++kept) {
    sum += term(best[kept]);
    if (sum > part * all * (1.0 + 1e-9)) break;
  }
  kept = std::max({kept, std::size_t{1}, std::min(min_keep_, best.size())});
  const float smallest = best[kept - 1];
  std::size_t ties = static_cast<std::size_t>(std::count(best.begin(), best.begin() + signed_(kept), smallest));
  if (whole_) gather_above(static_cast<double>(smallest));
  keep_if([&](std::size_t i) { return z_[i] > smallest || (z_[i] == smallest && ties > 0 && ties-- > 0); });
}

// In order of |surprise - entropy|, which is |z - mean z|, until p is reached; ties with the last stay.
void Candidates::typical_p(double p) {
  if (whole_) gather_above(kEveryFinite);
  const Sums s = sums(z_.data(), count_, ToExponent{0.0f, 1.0f}, weight_.data());
  const double mean = s.weighted_z / s.weight;
  rank_.resize(z_.size());
  for (std::size_t i = 0; i < count_; ++i) rank_[i] = -static_cast<float>(std::abs(static_cast<double>(z_[i]) - mean));
  const std::size_t cut = crossing(rank_, p * s.weight);
  if (cut == count_ || count_ <= min_keep_) return;
  float least = rank_[cut];
  if (min_keep_ > 1 && count_ > min_keep_) {
    std::copy_n(rank_.begin(), count_, weight_.begin());
    const auto kth = weight_.begin() + signed_(min_keep_ - 1);
    std::nth_element(weight_.begin(), kth, weight_.begin() + signed_(count_), std::greater<>());
    least = std::min(least, *kth);
  }
  keep_if([&](std::size_t i) { return rank_[i] >= least; });
}

// Takes away all that have at least this probability but the least probable of them.
void Candidates::xtc(double threshold) {
  const double bound = std::log(threshold * total_weight());
  if (whole_) {
    gather_above(bound);
    if (count_ < 2) {
      whole_ = true, count_ = 0;
      return;
    }
    gather_above(kEveryFinite);
  }
  std::size_t above = 0, last = 0;  // of equals the last stays
  for (std::size_t i = 0; i < count_; ++i) {
    if (static_cast<double>(z_[i]) < bound) continue;
    last = above++ == 0 || z_[i] <= z_[last] ? i : last;
  }
  if (above < 2 || count_ - (above - 1) < min_keep_) return;
  keep_if([&, kept = last](std::size_t i) { return static_cast<double>(z_[i]) < bound || i == kept; });
}

// Estimates Zipf's exponent from the 100 most probable, and from it how many to keep (arXiv:2007.14966, algorithm 1).
void Candidates::mirostat_1(double mu) {
  const std::vector<float>& best = sorted_z(kMirostat1);
  double tb = 0.0, tt = 0.0;
  for (std::size_t i = 0; i + 1 < best.size(); ++i) {
    if (best[i + 1] == -std::numeric_limits<float>::infinity()) break;
    const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
    tb += t * (static_cast<double>(best[i]) - static_cast<double>(best[i + 1]));
    tt += t * t;
  }
  if (tt == 0.0) return;
  const double s = tb / tt, epsilon = s - 1.0, n = static_cast<double>(z_.size());
  // epsilon / (1 - n^-epsilon), which has the limit 1 / ln(n)
  const double slope = std::abs(epsilon) < 1e-9 ? 1.0 / std::log(n) : epsilon / (1.0 - std::pow(n, -epsilon));
  const double k = std::pow(slope * std::exp2(mu), 1.0 / s);
  top_k(k >= n ? z_.size() : k >= 1.0 ? static_cast<std::size_t>(k) : 1);
}

// --- the draw ---

std::int32_t Candidates::pick(double u) {
  if (whole_) return pick_from_all(u);
  const double total = weigh(), target = u * total;
  double mass = 0.0;
  std::int32_t chosen = -1;
  for (std::size_t i = 0; i < count_; ++i) {
    if (weight_[i] == 0.0f) continue;
    chosen = id_[i];
    picked_z_ = static_cast<double>(z_[i]);
    mass += static_cast<double>(weight_[i]);
    if (mass > target) break;
  }
  picked_total_ = total;
  return chosen;
}

// The same over all of x: whole blocks by their sum first, then the one block that matters token by token.
std::int32_t Candidates::pick_from_all(double u) {
  const std::size_t n = z_.size();
  picked_total_ = sum_exp(x_, n, to_z(), block_sum_.data());
  const double target = u * picked_total_;
  double mass = 0.0;
  std::size_t block = 0, chosen_block = 0;
  for (double before = 0.0; block < block_sum_.size(); ++block) {
    if (block_sum_[block] == 0.0) continue;
    chosen_block = block;
    mass = before;
    before += block_sum_[block];
    if (before > target) break;
  }
  std::int32_t chosen = -1;
  const std::size_t end = std::min((chosen_block + 1) * kBlock, n);
  for (std::size_t i = chosen_block * kBlock; i < end; ++i) {
    const float z = to_z()(x_[i]), w = exp_nonpositive(z);
    if (w == 0.0f) continue;
    chosen = static_cast<std::int32_t>(i);
    picked_z_ = static_cast<double>(z);
    mass += static_cast<double>(w);
    if (mass > target) break;
  }
  return chosen;
}

double Candidates::surprise() const { return (std::log(picked_total_) - picked_z_) / std::numbers::ln2; }

void Candidates::scatter_z(float* out) const {
  if (!whole_) std::fill_n(out, z_.size(), -std::numeric_limits<float>::infinity());
  for (std::size_t i = 0; i < count_; ++i) out[static_cast<std::size_t>(id_[i])] = z_[i];
  for (std::size_t i = 0; whole_ && i < z_.size(); ++i) out[i] = to_z()(x_[i]);
}

void Candidates::scatter_scores(float* out) const {
  scatter_z(out);
  for (std::size_t i = 0; i < z_.size(); ++i) {
    if (out[i] != -std::numeric_limits<float>::infinity()) out[i] = to_float(static_cast<double>(out[i]) + offset_);
  }
}

std::vector<TokenLogprob> Candidates::best(const float* x, const float* block_max, std::size_t k) {
  k = std::min(k, z_.size());
  std::vector<TokenLogprob> top;
  if (k == 0) return top;
  begin(x, block_max, 0.0f, 1, 0.0);  // so that z is x
  count_ = gather(x_, z_.size(), block_max_, to_z(), at_least_k(k), z_.data(), id_.data());
  if (count_ > k) {
    const float smallest = kth_largest(k);
    keep_if([&](std::size_t i) { return z_[i] >= smallest; });
  }
  top.reserve(count_);
  for (std::size_t i = 0; i < count_; ++i) top.emplace_back(id_[i], z_[i]);
  std::partial_sort(top.begin(), top.begin() + signed_(k), top.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  top.resize(k);
  return top;
}

}  // namespace gpt2::sampling
