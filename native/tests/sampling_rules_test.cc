// Each rule of the sampler against its definition, written out in double with a full sort and no short cuts, and the
// sums that several of them read. The distributions, and transformers' own results, are tested from Python
// (tests/decoding).
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>
#include <set>

#include "base/errors.h"
#include "base/philox.h"
#include "sampling/exp.h"
#include "sampling/sampler.h"
#include "sampling/scan.h"

using namespace gpt2::sampling;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// Weights are off by 2^-22 of themselves and z by a rounding; a token this near to a bound may fall on either side.
constexpr double kNear = 1e-4;

std::vector<float> random_logits(std::size_t n, unsigned seed, float scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(generator);
  return x;
}

// softmax, in double.
std::vector<double> probabilities(const std::vector<float>& x) {
  const double largest = static_cast<double>(*std::max_element(x.begin(), x.end()));
  std::vector<double> p(x.size());
  std::transform(x.begin(), x.end(), p.begin(), [&](float v) { return std::exp(static_cast<double>(v) - largest); });
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& v : p) v /= total;
  return p;
}

double entropy(const std::vector<double>& p) {
  return std::accumulate(p.begin(), p.end(), 0.0, [](double h, double v) { return v > 0 ? h - v * std::log(v) : h; });
}

std::vector<float> processed(const std::vector<float>& logits, const Params& params, const Place& place = {}) {
  Sampler sampler(static_cast<int>(logits.size()));
  std::vector<float> out(logits.size());
  sampler.process(logits.data(), params, place, State{}, false, true, out.data());
  return out;
}

// The rule keeps every token with want > kNear and none with want < -kNear; -inf and +inf are certain.
void check_kept(const std::vector<float>& logits, const Params& params,
                const std::function<double(std::size_t)>& want) {
  const std::vector<float> out = processed(logits, params);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    CAPTURE(i);
    CAPTURE(want(i));
    if (want(i) > kNear) REQUIRE(out[i] > -kInf);
    if (want(i) < -kNear) REQUIRE(out[i] == -kInf);
  }
}

// Logits of every kind: flat, peaked, with many ties; fewer and more than are sorted at once, not whole blocks.
template <typename Test>
void for_logits(const Test& test) {
  for (const std::size_t n : {5u, 64u, 129u, 1000u}) {
    for (const float scale : {0.1f, 1.0f, 4.0f}) {
      CAPTURE(n);
      CAPTURE(scale);
      const std::vector<float> x = random_logits(n, static_cast<unsigned>(n), scale);
      const std::vector<double> p = probabilities(x);
      test(x, p, *std::max_element(p.begin(), p.end()));
    }
  }
}

}  // namespace

TEST_CASE("sums are those of a plain loop, in the order that is written down, for every length and with bans") {
  for (std::size_t n = 1; n <= 200; ++n) {
    for (const std::size_t offset : {0, 1}) {
      std::vector<float> padded = random_logits(n + 1, static_cast<unsigned>(n), 3.0f);
      float* x = padded.data() + offset;
      for (std::size_t i = 3; i < n; i += 7) x[i] = -kInf;
      const ToExponent to_z{*std::max_element(x, x + n), 0.7f};
      double lane[4][4] = {};
      std::size_t count = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const float z = to_z(x[i]);
        if (z == -kInf) continue;
        const double d = static_cast<double>(z), w = static_cast<double>(exp_nonpositive(z));
        const double terms[4] = {w, w * d, d, d * d};
        for (std::size_t k = 0; k < 4; ++k) lane[k][i % 4] += terms[k];
        ++count;
      }
      const auto all = [&](std::size_t k) { return (lane[k][0] + lane[k][1]) + (lane[k][2] + lane[k][3]); };
      std::vector<float> weight(n, -1.0f);
      for (float* const out : {static_cast<float*>(nullptr), weight.data()}) {
        const Sums s = sums(x, n, to_z, out);
        REQUIRE(s.count == count);
        REQUIRE(std::bit_cast<std::uint64_t>(s.weight) == std::bit_cast<std::uint64_t>(all(0)));
        REQUIRE(std::bit_cast<std::uint64_t>(s.weighted_z) == std::bit_cast<std::uint64_t>(all(1)));
        REQUIRE(std::bit_cast<std::uint64_t>(s.z) == std::bit_cast<std::uint64_t>(all(2)));
        REQUIRE(std::bit_cast<std::uint64_t>(s.z2) == std::bit_cast<std::uint64_t>(all(3)));
      }
      for (std::size_t i = 0; i < n; ++i) REQUIRE(weight[i] == exp_nonpositive(to_z(x[i])));
      std::vector<float> again(x, x + n);
      for (float& v : again) v = to_z(v);
      REQUIRE(exp_all(again.data(), n, again.data()) == all(0));
      REQUIRE(again == weight);
    }
  }
}

TEST_CASE("dynamic temperature is low + (high - low) (H / log n)^exponent") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double) {
    Params params;
    params.temperature = 0.9, params.dynatemp_range = 0.5, params.dynatemp_exponent = 1.5;
    const double part = entropy(p) / std::log(static_cast<double>(x.size()));
    const double t = 0.4 + 1.0 * std::pow(part, 1.5);
    const std::vector<float> out = processed(x, params);
    for (std::size_t i = 1; i < x.size(); ++i) {
      const double want = (static_cast<double>(x[i]) - static_cast<double>(x[0])) / t;
      REQUIRE(std::abs(static_cast<double>(out[i]) - static_cast<double>(out[0]) - want) <=
              1e-5 * (1 + std::abs(want)));
    }
  });
}

TEST_CASE("top_n_sigma keeps what is within n standard deviations of the largest") {
  for_logits([](const std::vector<float>& x, const std::vector<double>&, double) {
    double mean = 0.0, variance = 0.0;
    for (const float v : x) mean += static_cast<double>(v) / static_cast<double>(x.size());
    for (const float v : x) variance += std::pow(static_cast<double>(v) - mean, 2) / static_cast<double>(x.size());
    const double largest = static_cast<double>(*std::max_element(x.begin(), x.end()));
    Params params;
    params.top_n_sigma = 1.3;
    check_kept(x, params,
               [&](std::size_t i) { return static_cast<double>(x[i]) - (largest - 1.3 * std::sqrt(variance)); });
  });
}

TEST_CASE("epsilon and eta cutoff keep what is as probable as their bounds, and the most probable") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double most) {
    const auto above = [&](double bound) {
      return [&, bound](std::size_t i) { return p[i] == most ? 1.0 : std::log(p[i] / bound); };
    };
    for (const double bar : {1e-3, 0.02, 0.6}) {
      Params params;
      params.epsilon_cutoff = bar;
      check_kept(x, params, above(bar));
      params = Params{};
      params.eta_cutoff = bar;
      check_kept(x, params, above(std::min(bar, std::sqrt(bar) * std::exp(-entropy(p)))));
    }
  });
}

TEST_CASE("typical_p keeps those whose surprise is nearest to the entropy until the mass is reached") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double) {
    const double h = entropy(p);
    const auto strange = [&](std::size_t i) { return std::abs(-std::log(p[i]) - h); };
    std::vector<std::size_t> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return strange(a) < strange(b); });
    for (const double mass : {0.1, 0.5, 0.95}) {
      double sum = 0.0, last = 0.0;
      bool near = false;  // a sum that near to the mass may go on or not
      for (std::size_t k = 0; k < order.size() && sum < mass; ++k) {
        sum += p[order[k]], last = strange(order[k]);
        near = near || std::abs(sum - mass) < 1e-6;
      }
      if (near) continue;
      Params params;
      params.typical_p = mass;
      check_kept(x, params, [&](std::size_t i) { return last - strange(i) + (strange(i) == last ? 1.0 : 0.0); });
    }
  });
}

TEST_CASE("top_h keeps as many of the 100 largest as have this part of their entropy") {
  for_logits([](const std::vector<float>& x, const std::vector<double>&, double) {
    std::vector<float> best = x;
    std::sort(best.begin(), best.end(), std::greater<>());
    best.resize(std::min<std::size_t>(best.size(), 100));
    const std::vector<double> p = probabilities(best);
    double sum = 0.0;
    std::size_t kept = 0;
    for (; kept < best.size(); ++kept) {
      sum -= p[kept] * std::log(p[kept]);
      if (sum > 0.4 * entropy(p)) break;
    }
    kept = std::max<std::size_t>(kept, 1);
    Params params;
    params.top_h = 0.4;
    const std::vector<float> out = processed(x, params);
    const auto found = std::count_if(out.begin(), out.end(), [](float v) { return v > -kInf; });
    REQUIRE(std::abs(static_cast<long>(found) - static_cast<long>(kept)) <= 1);  // a sum that is near may round over
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i] >= best[static_cast<std::size_t>(found) - 1]) REQUIRE(out[i] > -kInf);
    }
  });
}

TEST_CASE("xtc takes away all that are probable but the least of them, as often as its coin says") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double) {
    for (const double threshold : {0.005, 0.05, 0.4}) {
      Params params;
      params.xtc_threshold = threshold, params.xtc_probability = 1.0;
      std::vector<double> above;
      bool near = false;
      for (const double v : p) {
        near = near || std::abs(v / threshold - 1.0) < kNear;
        if (v >= threshold) above.push_back(v);
      }
      if (near) continue;
      const double least = above.size() < 2 ? 2.0 : *std::min_element(above.begin(), above.end());
      check_kept(x, params, [&](std::size_t i) { return p[i] > least ? -1.0 : 1.0; });
    }
  });
  const std::vector<float> two = {2.0f, 1.0f, -3.0f};
  Params params;
  params.xtc_probability = 0.3, params.xtc_threshold = 0.1, params.seed = 5;
  Sampler sampler(3);
  int acted = 0;
  for (std::size_t position = 0; position < 1000; ++position) {
    std::vector<float> out(3);
    sampler.process(two.data(), params, {nullptr, 0, position}, State{}, false, true, out.data());
    const bool acts = out[0] == -kInf;
    REQUIRE(acts == (gpt2::philox_uniform(5, 0, position, 1) < 0.3));
    acted += acts ? 1 : 0;
  }
  CHECK(std::abs(acted - 300) < 75);  // five standard deviations of the binomial
}

TEST_CASE("mirostat 2 keeps what is no more surprising than mu, and moves mu towards its aim") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double most) {
    Params params;
    params.mirostat = 2, params.mirostat_tau = 3.0, params.mirostat_eta = 0.2, params.seed = 1;
    State state;
    Sampler sampler(static_cast<int>(x.size()));
    double mu = 6.0;  // begins at twice its aim
    for (std::size_t position = 0; position < 20; ++position) {
      std::vector<float> out(x.size());
      sampler.process(x.data(), params, {nullptr, 0, position}, state, false, true, out.data());
      double total = 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double surprise = -std::log2(p[i]);
        if (p[i] == most || surprise < mu - kNear) REQUIRE(out[i] > -kInf);
        if (p[i] != most && surprise > mu + kNear) REQUIRE(out[i] == -kInf);
        if (out[i] > -kInf) total += p[i];
      }
      const Choice choice = sampler.next(x.data(), params, {nullptr, 0, position}, state);
      REQUIRE(out[static_cast<std::size_t>(choice.token)] > -kInf);
      mu -= 0.2 * (-std::log2(p[static_cast<std::size_t>(choice.token)] / total) - 3.0);
      REQUIRE(std::abs(state.mu - mu) <= 1e-5 * static_cast<double>(position + 1));
    }
  });
}

TEST_CASE("mirostat 1 keeps the k of its paper") {
  for_logits([](const std::vector<float>& x, const std::vector<double>& p, double) {
    std::vector<double> best = p;
    std::sort(best.begin(), best.end(), std::greater<>());
    double tb = 0.0, tt = 0.0;
    for (std::size_t i = 0; i + 1 < std::min<std::size_t>(best.size(), 100); ++i) {
      const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
      tb += t * std::log(best[i] / best[i + 1]), tt += t * t;
    }
    const double s = tb / tt, e = s - 1.0, n = static_cast<double>(x.size());
    Params params;
    params.mirostat = 1, params.mirostat_tau = 2.0;
    const double k = std::pow(e / (1.0 - std::pow(n, -e)) * std::exp2(4.0), 1.0 / s);
    const std::vector<float> out = processed(x, params);
    const auto kept = std::count_if(out.begin(), out.end(), [](float v) { return v > -kInf; });
    const double want = std::floor(std::clamp(k, 1.0, n));
    REQUIRE(std::abs(static_cast<double>(kept) - want) <= (std::abs(k - std::round(k)) < 1e-3 * k ? 1.0 : 0.0));
  });
}

TEST_CASE("what penalties and biases do to scores, by hand") {
  const std::vector<float> x = {1.0f, 2.0f, -1.0f, 0.5f, 3.0f};
  const std::vector<std::int32_t> history = {4, 1, 2, 1, 2, 1};  // the last four were generated
  const Place place{history.data(), 6, 4};
  const auto at = [&](auto change) {
    Params params;
    params.temperature = 0.0;  // nothing shapes the draw
    change(params);
    return processed(x, params, place);
  };
  using Scores = std::vector<float>;
  CHECK(at([](Params& p) { p.frequency_penalty = 0.25; }) == Scores{1.0f, 1.5f, -1.5f, 0.5f, 3.0f});
  CHECK(at([](Params& p) { p.presence_penalty = 0.25; }) == Scores{1.0f, 1.75f, -1.25f, 0.5f, 3.0f});
  CHECK(at([](Params& p) { p.presence_penalty = -0.5, p.repeat_last_n = 1; }) == Scores{1.0f, 2.5f, -1.0f, 0.5f, 3.0f});
  CHECK(at([](Params& p) { p.repetition_penalty = 2.0; }) == Scores{1.0f, 1.0f, -2.0f, 0.5f, 1.5f});
  CHECK(at([](Params& p) { p.repetition_penalty = 2.0, p.repeat_last_n = 2; }) ==
        Scores{1.0f, 1.0f, -2.0f, 0.5f, 3.0f});
  CHECK(at([](Params& p) { p.logit_bias = {{0, 9.0f}, {3, -kInf}}; }) == Scores{10.0f, 2.0f, -1.0f, -kInf, 3.0f});
  CHECK(at([](Params& p) {
          p.sequence_bias = {{{2, 1, 3}, 4.0f}, {{1, 1, 0}, 7.0f}, {{4}, -1.0f}};
        }) == Scores{1.0f, 2.0f, -1.0f, 4.5f, 2.0f});
  CHECK(at([](Params& p) {
          p.bad_words_ids = {{2, 1, 0}, {1, 4}, {2, 3}, {3}};
        }) == Scores{-kInf, 2.0f, -1.0f, -kInf, -kInf});
  // "1 2 1" came before what would be its second "2": a run of three and one more, 0.5 * 2^(3 - 2).
  CHECK(at([](Params& p) { p.dry_multiplier = 0.5, p.dry_base = 2.0; }) == Scores{1.0f, 2.0f, -2.0f, 0.5f, 3.0f});
  CHECK(at([](Params& p) { p.dry_multiplier = 0.5, p.dry_base = 2.0, p.dry_sequence_breakers = {{2}}; }) == x);
  CHECK(at([](Params& p) { p.dry_multiplier = 0.5, p.dry_penalty_last_n = 2; }) == x);
}

TEST_CASE("what must come, and what must not, by hand") {
  const std::vector<float> x = {1.0f, 2.0f, -1.0f, 0.5f, 3.0f};
  const std::vector<std::int32_t> history = {4, 1, 2, 1, 2, 1};
  const auto at = [&](Place place, auto change) {
    Params params;
    params.temperature = 0.0;
    change(params);
    return processed(x, params, place);
  };
  const Place first{history.data(), 3, 0}, later{history.data(), 6, 4}, one{history.data(), 1, 0};
  using Scores = std::vector<float>;
  const Scores only_three = {-kInf, -kInf, -kInf, 0.0f, -kInf}, without_one = {1.0f, -kInf, -1.0f, 0.5f, 3.0f};
  const auto suppress = [](Params& p) { p.suppress_tokens = {1}; };
  const auto begin = [](Params& p) { p.begin_suppress_tokens = {1}; };
  const auto bos = [](Params& p) { p.forced_bos_token_id = 3; };
  CHECK(at(first, suppress) == without_one);
  CHECK(at(later, suppress) == without_one);
  CHECK(at(first, begin) == without_one);
  CHECK(at(later, begin) == x);
  CHECK(at(one, bos) == only_three);
  CHECK(at(first, bos) == x);
  CHECK(at(later, [](Params& p) { p.forced_eos_token_id = {3}, p.max_new_tokens = 5; }) == only_three);
  CHECK(at(later, [](Params& p) { p.forced_eos_token_id = {3}, p.max_length = 7; }) == only_three);
  CHECK(at(later, [](Params& p) { p.forced_eos_token_id = {3}, p.max_length = 8; }) == x);
  CHECK(at(later, [](Params& p) { p.forced_decoder_ids = {{5, 1}, {6, 3}}; }) == only_three);
  CHECK(at(later, [](Params& p) { p.min_length = 7, p.stop_token_ids = {1}; }) == without_one);
  CHECK(at(later, [](Params& p) { p.min_length = 6, p.stop_token_ids = {1}; }) == x);
  const auto decay = [](Params& p) {
    p.exponential_decay_start = 2, p.exponential_decay_factor = 1.5, p.eos_token_ids = {2};
  };
  CHECK(at(first, decay) == x);
  CHECK(at(later, decay)[2] == -1.0f + 1.0f * (1.5f * 1.5f - 1.0f));
}

TEST_CASE("the order of the rules is the caller's") {
  const std::vector<float> x = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  Params params;
  params.temperature = 0.5, params.top_p = 0.7;  // squared and normalised: 0.66, 0.24, 0.11
  const auto kept = [&] {
    const std::vector<float> out = processed(x, params);
    return std::count_if(out.begin(), out.end(), [](float v) { return v > -kInf; });
  };
  CHECK(kept() == 2);
  std::swap(*std::find(params.order.begin(), params.order.end(), Rule::kTemperature),
            *std::find(params.order.begin(), params.order.end(), Rule::kTopP));
  CHECK(kept() == 2);
  params.top_p = 0.6;
  CHECK(kept() == 2);
  params.order = default_order();
  CHECK(kept() == 1);
}
