// The sampler against definitions written out plainly: known answers for Philox, exp against libm, each rule on small
// cases, and what must fail. The distributions themselves are tested from Python (tests/decoding).
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "base/errors.h"
#include "base/philox.h"
#include "sampling/exp.h"
#include "sampling/sampler.h"
#include "sampling/scan.h"

using gpt2::Error;
using gpt2::ErrorKind;
using gpt2::philox4x32_10;
using gpt2::philox_uniform;
using namespace gpt2::sampling;

// Every allocation of this program is counted, for the promise that next() makes none. Not inlined, or GCC
// sees new and free() side by side, and warns.
static std::atomic<long> allocations{0};

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(generator);
  return x;
}

std::int32_t next(Sampler& sampler, const std::vector<float>& logits, const Params& params,
                  const std::vector<std::int32_t>& history = {}, std::size_t generated = 0,
                  std::uint32_t alternative = 0) {
  State state;
  const Place place{history.data(), history.size(), generated, alternative};
  return sampler.next(logits.data(), params, place, state).token;
}

std::int32_t choose(const std::vector<float>& logits, const Params& params,
                    const std::vector<std::int32_t>& history = {}, std::size_t generated = 0) {
  Sampler sampler(static_cast<int>(logits.size()));
  return next(sampler, logits, params, history, generated);
}

// Every token that `draws` draws give.
std::set<std::int32_t> support(const std::vector<float>& logits, Params params, int draws = 2000) {
  Sampler sampler(static_cast<int>(logits.size()));
  std::set<std::int32_t> tokens;
  for (int i = 0; i < draws; ++i) {
    tokens.insert(next(sampler, logits, params, {}, static_cast<std::size_t>(i)));
  }
  return tokens;
}

template <typename Call>
ErrorKind kind_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.kind();
  }
  FAIL("no error");
  return ErrorKind::kOutOfMemory;
}

}  // namespace

TEST_CASE("philox4x32-10 gives the known answers of Random123 (tests/kat_vectors)") {
  using Block = std::array<std::uint32_t, 4>;
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t f = 0xffffffff;
  CHECK(philox4x32_10({f, f, f, f}, {f, f}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a draw is in [0, 1), and each of seed, alternative and position changes it") {
  std::set<double> draws;
  for (std::uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull}) {
    for (std::uint32_t alternative : {0u, 1u, ~0u}) {
      for (std::uint64_t position : {0ull, 1ull, 1ull << 32, ~0ull}) {
        const double u = philox_uniform(seed, alternative, position);
        CHECK(u >= 0.0);
        CHECK(u < 1.0);
        draws.insert(u);
      }
    }
  }
  CHECK(draws.size() == 4 * 3 * 4);
  CHECK(philox_uniform(0, 0, 0) == static_cast<double>(0xe169c58d6627e8d5ull >> 11) * 0x1p-53);
}

TEST_CASE("exp_nonpositive keeps its error bound and its edges, in one lane and in four") {
  std::mt19937 generator(7);
  std::uniform_real_distribution<float> uniform(-87.0f, 0.0f);
  double worst = 0.0;
  for (int i = 0; i < 1000000; ++i) {
    const float z = i < 500000 ? uniform(generator) : uniform(generator) / 87.0f;
    const double truth = std::exp(static_cast<double>(z));
    worst = std::max(worst, std::abs(static_cast<double>(exp_nonpositive(z)) - truth) / truth);
    if (i % 1000 == 0) {
      const Floats4 four = exp_nonpositive(Floats4{z, -z - 87.0f, 0.0f, -kInf});
      CHECK(four[0] == exp_nonpositive(z));
      CHECK(four[1] == exp_nonpositive(-z - 87.0f));
      CHECK(four[2] == 1.0f);
      CHECK(four[3] == 0.0f);
    }
  }
  CAPTURE(worst);
  CHECK(worst <= 0x1p-22);
  CHECK(exp_nonpositive(0.0f) == 1.0f);
  CHECK(exp_nonpositive(-0.0f) == 1.0f);
  CHECK(exp_nonpositive(-87.0f) > 1.6e-38f);
  CHECK(exp_nonpositive(-87.001f) == 0.0f);
  CHECK(exp_nonpositive(-3e38f) == 0.0f);
  CHECK(exp_nonpositive(-kInf) == 0.0f);
}

TEST_CASE("the passes equal plain loops for every length, aligned or not") {
  for (std::size_t n = 1; n <= 200; ++n) {
    std::vector<float> padded = random_logits(n + 1, static_cast<unsigned>(n), 3.0f);
    for (const std::size_t offset : {0, 1}) {
      const float* x = padded.data() + offset;
      std::vector<float> block_max(blocks_of(n));
      const Scan s = scan(x, n, block_max.data());
      const float largest = *std::max_element(x, x + n);
      REQUIRE(s.largest == largest);
      REQUIRE_FALSE(s.has_nan_or_inf);
      REQUIRE(x[first_equal(x, n, block_max.data(), largest)] == largest);
      const ToExponent to_z{largest, 0.7f};
      double truth = 0.0;
      for (std::size_t i = 0; i < n; ++i) truth += std::exp(static_cast<double>(to_z(x[i])));
      std::vector<double> block_sum(blocks_of(n));
      const double sum = sum_exp(x, n, to_z, block_sum.data());
      REQUIRE(std::abs(sum - truth) <= 0x1p-22 * truth);
      REQUIRE(std::abs(std::accumulate(block_sum.begin(), block_sum.end(), 0.0) - sum) <= 1e-12 * sum);
      std::vector<float> z(n);
      std::vector<std::int32_t> id(n), want;
      const std::size_t count = gather(x, n, block_max.data(), to_z, -2.0, z.data(), id.data());
      for (std::size_t i = 0; i < n; ++i) {
        if (to_z(x[i]) >= -2.0f) want.push_back(static_cast<std::int32_t>(i));
      }
      REQUIRE(std::vector<std::int32_t>(id.begin(), id.begin() + static_cast<std::ptrdiff_t>(count)) == want);
    }
  }
}

TEST_CASE("NaN and +inf are found at every place") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(), kInf}) {
    for (std::size_t n : {1, 5, 64, 67, 130}) {
      for (std::size_t at = 0; at < n; ++at) {
        std::vector<float> x = random_logits(n, 1);
        x[at] = bad;
        std::vector<float> block_max(blocks_of(n));
        REQUIRE(scan(x.data(), n, block_max.data()).has_nan_or_inf);
        REQUIRE(kind_of([&] { choose(x, Params{}); }) == ErrorKind::kEngine);
      }
    }
  }
}

TEST_CASE("greedy takes the largest logit, ties to the lowest id, and obeys the penalties") {
  Params greedy;
  greedy.temperature = 0.0;
  CHECK(choose({1, 3, 2, 3}, greedy) == 1);
  CHECK(choose({-kInf, -kInf, -5}, greedy) == 2);
  std::vector<float> wide(1000, -1.0f);
  wide[131] = wide[700] = 2.0f;
  CHECK(choose(wide, greedy) == 131);
  Params penalised = greedy;
  penalised.repetition_penalty = 2.0;
  CHECK(choose({1, 3, 2}, penalised, {1, 1, 1}) == 2);     // 3 / 2 < 2
  CHECK(choose({1, 3, 1.4f}, penalised, {1, 1, 1}) == 1);  // once, however often it came: 3 / 2 > 1.4
  CHECK(choose({-1, -1.5f, -4}, penalised, {0}) == 1);     // -1 * 2 < -1.5
  Params ngram = greedy;
  ngram.no_repeat_ngram_size = 2;
  CHECK(choose({1, 2, 3}, ngram, {0, 2, 1, 0}) == 1);  // "0 2" was there
  ngram.no_repeat_ngram_size = 1;
  CHECK(choose({1, 2, 3}, ngram, {2, 1}) == 0);
  Params lasting = greedy;
  lasting.min_new_tokens = 2;
  lasting.stop_token_ids = {2};
  CHECK(choose({1, 2, 3}, lasting, {}, 1) == 1);
  CHECK(choose({1, 2, 3}, lasting, {}, 2) == 2);
}

TEST_CASE("each rule keeps what it should") {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  using Tokens = std::set<std::int32_t>;
  Params p;
  CHECK(support(logits, p) == Tokens{0, 1, 2, 3});
  p.top_k = 2;
  CHECK(support(logits, p) == Tokens{1, 3});
  CHECK(support({1, 2, 2, 2}, p) == Tokens{1, 2, 3});  // ties with the k-th stay
  p.top_k = 99;
  CHECK(support(logits, p) == Tokens{0, 1, 2, 3});
  p.top_k = 0;
  p.top_p = 0.3;
  CHECK(support(logits, p) == Tokens{1});
  p.top_p = 0.5;
  CHECK(support(logits, p) == Tokens{1, 3});
  CHECK(support({0, 0, 0, 0}, p) == Tokens{0, 1});  // ties: lowest ids first
  p.top_p = 1e-9;
  CHECK(support(logits, p) == Tokens{1});
  p.top_p = 0.95;
  p.top_k = 3;  // 4/9, 3/9, 2/9: all three are needed for 0.95
  CHECK(support(logits, p) == Tokens{1, 2, 3});
  p = Params{};
  p.min_p = 0.45;
  CHECK(support(logits, p) == Tokens{1, 2, 3});
  p.min_p = 1.0;
  CHECK(support(logits, p) == Tokens{1});
  p = Params{};
  p.temperature = 1e-30;  // (x - largest) / T: -inf, never NaN
  CHECK(support(logits, p) == Tokens{1});
  p.temperature = 1e30;
  CHECK(support({1e3f, -1e3f}, p) == Tokens{0, 1});
}

TEST_CASE("a draw is the inverse of the cumulative weights, through all blocks") {
  const std::vector<float> logits = random_logits(1000, 11, 2.0f);
  const float largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> cumulative(1000);
  double total = 0.0;
  for (std::size_t i = 0; i < 1000; ++i) {
    total += std::exp(static_cast<double>(logits[i]) - static_cast<double>(largest));
    cumulative[i] = total;
  }
  Params p;
  p.seed = 3;
  for (std::size_t position = 0; position < 3000; ++position) {
    const auto token = static_cast<std::size_t>(choose(logits, p, {}, position));
    const double target = philox_uniform(3, 0, position) * total;
    REQUIRE(target <= cumulative[token] + 1e-6 * total);
    REQUIRE(target >= (token == 0 ? 0.0 : cumulative[token - 1]) - 1e-6 * total);
  }
}

TEST_CASE("top_p keeps the same set by buckets as by a full sort") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::size_t n = 300 + 37 * seed;
    std::vector<float> logits = random_logits(n, seed, seed % 2 == 0 ? 0.3f : 4.0f);
    if (seed % 3 == 0) {
      for (float& v : logits) v = std::round(v);  // many ties
    }
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    const float largest = logits[order[0]];
    double total = 0.0, above = 0.0;
    for (const float v : logits) total += std::exp(static_cast<double>(v) - static_cast<double>(largest));
    std::set<std::int32_t> want;
    Params p;
    p.top_p = 0.31;
    for (std::size_t i = 0; i < n && above < p.top_p * total; ++i) {
      want.insert(static_cast<std::int32_t>(order[i]));
      above += std::exp(static_cast<double>(logits[order[i]]) - static_cast<double>(largest));
    }
    for (const std::int32_t token : support(logits, p, 300)) REQUIRE(want.count(token) == 1);
    // And each of them comes: a flat distribution shows all in 20,000 draws, a peaked one if they are few.
    if (seed % 2 == 0) REQUIRE(support(logits, p, 20000) == want);
    if (seed % 2 == 1 && want.size() <= 12) REQUIRE(support(logits, p, 5000) == want);
  }
}

TEST_CASE("log-probabilities are those of the unchanged logits") {
  const std::vector<float> logits = random_logits(1003, 5, 4.0f);
  double total = 0.0;
  for (const float v : logits) total += std::exp(static_cast<double>(v));
  Params p;
  p.temperature = 0.5;
  p.top_k = 3;
  p.repetition_penalty = 5.0;
  p.logprobs = 7;
  Sampler sampler(1003);
  State state;
  const std::vector<std::int32_t> history = {1, 2, 3};
  const Choice choice = sampler.next(logits.data(), p, {history.data(), 3}, state);
  const auto truth = [&](std::int32_t t) {
    return static_cast<double>(logits[static_cast<std::size_t>(t)]) - std::log(total);
  };
  CHECK(std::abs(static_cast<double>(choice.logprob) - truth(choice.token)) <= 1.5e-6);
  REQUIRE(choice.top.size() == 7);
  for (const auto& [token, logprob] : choice.top)
    CHECK(std::abs(static_cast<double>(logprob) - truth(token)) <= 1.5e-6);
  CHECK(std::is_sorted(choice.top.begin(), choice.top.end(), [](auto a, auto b) { return a.second > b.second; }));
  CHECK(choice.top == top_n(logits.data(), logits.size(), 7));
  CHECK(choice.logprob == log_softmax_at(logits.data(), logits.size(), choice.token));
  CHECK(top_n(logits.data(), logits.size(), 5000).size() == 1003);
  CHECK(top_n(logits.data(), logits.size(), 0).empty());
  const std::vector<float> tied = {1, 2, 2, 2};
  const auto best = top_n(tied.data(), 4, 2);
  CHECK(best[0].first == 1);
  CHECK(best[1].first == 2);
}

TEST_CASE("a Sampler keeps nothing from one call to the next") {
  const std::vector<float> a = random_logits(777, 1, 3.0f), b = random_logits(777, 2, 3.0f);
  const std::vector<std::int32_t> history = {5, 6, 5};
  std::vector<Params> all(5);
  all[1].top_k = 20;
  all[2].top_p = 0.8;
  all[3].repetition_penalty = 1.7;
  all[3].no_repeat_ngram_size = 2;
  all[4].min_p = 0.1;
  Sampler used(777);
  for (int round = 0; round < 50; ++round) {
    for (const Params& p : all) {
      for (const auto* x : {&a, &b}) {
        Sampler fresh(777);
        const std::size_t g = static_cast<std::size_t>(round);
        REQUIRE(next(used, *x, p, history, g, 1) == next(fresh, *x, p, history, g, 1));
      }
    }
  }
}

TEST_CASE("next allocates nothing but the list of alternatives that was asked for") {
  const std::vector<float> logits = random_logits(5003, 1, 3.0f);
  const std::vector<std::int32_t> history = {5, 6, 5, 6};
  std::vector<Params> all(7);
  all[0].temperature = 0.0;
  all[1].top_k = 20;
  all[2].top_p = 0.8;
  all[3].repetition_penalty = 1.7;
  all[3].no_repeat_ngram_size = 2;
  all[4].min_p = 0.1;
  all[5].logprobs = 0;
  all[6].logprobs = 5;
  Sampler sampler(5003);
  State state;
  for (const Params& p : all) {
    const long before = allocations;
    const Choice choice = sampler.next(logits.data(), p, {history.data(), 4, 1}, state);
    const long made = allocations - before;
    CHECK(made == (p.logprobs > 0 ? 1 : 0));
    CHECK(choice.top.size() == static_cast<std::size_t>(std::max(p.logprobs, 0)));
  }
}

TEST_CASE("a mask leaves its tokens alone, whatever the rules, and an empty one is an error") {
  const std::vector<float> logits = random_logits(333, 3, 2.0f);
  std::vector<std::uint32_t> mask(11, 0u);
  const std::set<std::int32_t> allowed = {0, 31, 32, 100, 332};
  for (const std::int32_t t : allowed) mask[static_cast<std::size_t>(t) / 32] |= 1u << (t % 32);
  std::vector<Params> all(4);
  all[1].temperature = 0.0;
  all[2].top_p = 0.999;
  all[3].repetition_penalty = 1.3;
  Sampler sampler(333);
  const std::vector<std::int32_t> history = {0, 5, 31};
  std::set<std::int32_t> seen;
  for (const Params& p : all) {
    for (std::uint32_t k = 0; k < 500; ++k) {
      State state;
      seen.insert(sampler.next(logits.data(), p, {history.data(), 3, 0, k, mask.data()}, state).token);
    }
  }
  CHECK(seen == allowed);
  const auto best = sampler.candidates(logits.data(), all[0], {nullptr, 0, 0, 0, mask.data()}, 100, false);
  CHECK(best.size() == allowed.size());
  for (const auto& [token, score] : best) CHECK(score == logits[static_cast<std::size_t>(token)]);
  std::vector<float> out(333);
  sampler.process(logits.data(), all[3], {nullptr, 0, 0, 0, mask.data()}, State{}, false, true, out.data());
  for (std::int32_t t = 0; t < 333; ++t) CHECK((out[static_cast<std::size_t>(t)] == -kInf) == (allowed.count(t) == 0));
  mask.assign(11, 0u);
  State state;
  CHECK(kind_of([&] {
          sampler.next(logits.data(), all[0], {nullptr, 0, 0, 0, mask.data()}, state);
        }) == ErrorKind::kInvalidRequest);
}

TEST_CASE("what cannot be done is refused, with the right kind") {
  const std::vector<float> logits = {1, 2, 3};
  const auto refused = [&](auto change) {
    Params p;
    change(p);
    return kind_of([&] { choose(logits, p, {0, 1}); }) == ErrorKind::kInvalidRequest;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const double v : {-1.0, nan, inf, 1e-300}) CHECK(refused([&](Params& p) { p.temperature = v; }));
  for (const double v : {0.0, -0.1, 1.1, nan}) CHECK(refused([&](Params& p) { p.top_p = v; }));
  for (const double v : {-0.1, 1.1, nan}) CHECK(refused([&](Params& p) { p.min_p = v; }));
  for (const double v : {0.0, -1.0, nan, inf}) CHECK(refused([&](Params& p) { p.repetition_penalty = v; }));
  CHECK(refused([](Params& p) { p.top_k = -1; }));
  CHECK(refused([](Params& p) { p.no_repeat_ngram_size = -1; }));
  CHECK(refused([](Params& p) { p.min_new_tokens = -1; }));
  CHECK(refused([](Params& p) { p.logprobs = -2; }));
  CHECK(refused([](Params& p) { p.stop_token_ids = {3}; }));
  CHECK(refused([](Params& p) { p.stop_token_ids = {-1}; }));
  CHECK(refused([](Params& p) {  // nothing is left to choose
    p.stop_token_ids = {0, 1, 2};
    p.min_new_tokens = 1;
  }));
  Params p;
  p.repetition_penalty = 1.2e-38;  // the logit overflows
  CHECK(kind_of([&] { choose({10, 20, 30}, p, {0, 1}); }) == ErrorKind::kInvalidRequest);
  p.repetition_penalty = 1.1;
  CHECK(kind_of([&] { choose(logits, p, {0, 3}); }) == ErrorKind::kInvalidRequest);
  CHECK(kind_of([&] { choose(logits, p, {-1}); }) == ErrorKind::kInvalidRequest);
  CHECK(kind_of([&] { choose({-kInf, -kInf}, Params{}); }) == ErrorKind::kEngine);
  CHECK(kind_of([&] { log_softmax_at(logits.data(), 3, 3); }) == ErrorKind::kInvalidRequest);
  CHECK(kind_of([&] { Sampler sampler(0); }) == ErrorKind::kInvalidRequest);
}
