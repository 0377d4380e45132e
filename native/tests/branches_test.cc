// Driven requests from C++: whatever is forked, rewound, dropped and preempted, and whoever else calls, an answer has
// the logits of a fresh computation; guesses are kept exactly as far as they are what is chosen. Under
// -fsanitize=thread a race is a failure.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "base/errors.h"
#include "tests/small_model.h"

namespace {

using namespace gpt2;
using namespace gpt2::testing;

using Ids = std::vector<std::int32_t>;

int rounds() {
  const char* text = std::getenv("GPT2_TEST_ROUNDS");
  return text == nullptr ? 12 : std::atoi(text);
}

// Logits of texts, by an engine that nobody else uses and that has no prefix cache.
class Truth {
 public:
  Truth(const Config& c, const Storage& storage) : engine_(c, storage.tensors, options()) {}
  std::vector<float> after(const Ids& ids) {  // of the last token
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<float> out(engine_.config().vocab);
    engine_.logits(ids.data(), ids.size(), ids.size() - 1, out.data(), nullptr);
    return out;
  }
  std::size_t block_bytes() const { return engine_.stats().block_bytes; }

 private:
  static EngineOptions options() {
    EngineOptions o = with(1);
    o.prefix_cache = false;
    return o;
  }
  std::mutex mutex_;
  Engine engine_;
};

Ask logits_of_last() {
  Ask ask;
  ask.kind = AskKind::kLogits;
  return ask;
}

// Branches of one request that wander at random; returns how many answers were wrong.
int wander(Engine& engine, Truth& truth, unsigned seed, int count) {
  std::mt19937 bits(seed);
  Mailbox box(engine);
  const std::uint64_t request = box.begin({});
  const sampling::Params params;
  std::map<std::uint32_t, Ids> known;
  std::vector<Event> events;
  int wrong = 0;
  for (int round = 0; round < count; ++round) {
    if (known.size() < 4) known[box.open(request, params, 0, 0)];
    const auto copy = known;
    for (const auto& [branch, ids] : copy) {
      const unsigned dice = bits() % 8;
      if (dice == 0 && known.size() < 6) known[box.fork(request, branch)] = ids;
      if (dice == 1) {
        const std::size_t keep = bits() % (ids.size() + 1);
        box.rewind(request, branch, keep);
        known[branch].resize(keep);
      }
      if (dice == 2) box.drop(request, branch), known.erase(branch);
    }
    std::size_t asked = 0;
    for (auto& [branch, ids] : known) {
      static const std::size_t lengths[] = {1, 1, 2, 63, 64, 65};
      const Ids source = random_ids(engine.config().positions + 70, bits() % 2);
      const auto from = source.begin() + static_cast<std::ptrdiff_t>(ids.size());
      const Ids more(from, from + static_cast<std::ptrdiff_t>(lengths[bits() % std::size(lengths)]));
      const bool fits = ids.size() + more.size() <= engine.config().positions;
      wrong += box.extend(request, branch, more.data(), more.size(), logits_of_last()) != fits;
      if (!fits) continue;
      ids.insert(ids.end(), more.begin(), more.end());
      ++asked;
    }
    while (asked > 0 && box.wait(events, nullptr)) {
      for (const Event& e : events) {
        const std::vector<float> expected = truth.after(known.at(e.alternative));
        wrong += e.reply == nullptr || !std::equal(expected.begin(), expected.end(), e.reply->logits.get());
        --asked;
      }
    }
    wrong += asked != 0;
  }
  return wrong;
}

TEST_CASE("answers of branches that wander are those of fresh texts, with little memory and beside others") {
  const Config c = small();
  const Storage storage(c);
  Truth truth(c, storage);
  std::uint64_t preemptions = 0;
  for (unsigned seed = 0; seed < 6; ++seed) {
    CAPTURE(seed);
    EngineOptions o = with(1 + static_cast<int>(seed % 2));
    o.cache_bytes = (3 + 2 * seed) * truth.block_bytes();
    o.step_tokens = seed % 3 == 0 ? 7 : 256;
    Engine engine(c, storage.tensors, o);
    REQUIRE(wander(engine, truth, seed, 20) == 0);
    const Stats s = engine.stats();
    REQUIRE(s.blocks_used == 0);
    REQUIRE(s.waiting + s.running == 0);
    preemptions += s.preemptions;
  }
  REQUIRE(preemptions > 10);
}

TEST_CASE("threads that drive, generate and leave") {
  const Config c = small();
  const Storage storage(c);
  Truth truth(c, storage);
  EngineOptions o = with(2);
  o.cache_bytes = 12 * truth.block_bytes();
  Engine engine(c, storage.tensors, o);
  const Request plain = request(random_ids(70, 1), 3, 9);
  const std::vector<Answer> expected = run(engine, {plain});
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) threads.emplace_back([&, t] { wrong += wander(engine, truth, t, rounds() / 2); });
  threads.emplace_back([&] {
    for (int i = 0; i < rounds(); ++i) {
      Mailbox box(engine);
      box.submit(plain);
      std::vector<Event> events;
      std::vector<std::int32_t> tokens;
      while (box.wait(events, nullptr)) {
        for (const Event& e : events) tokens.push_back(e.choice.token);
      }
      wrong += tokens != expected.front().tokens;
    }
  });
  threads.emplace_back([&] {  // cancels in the middle of a step, and chooses while another thread cancels
    const Ids ids = random_ids(100, 2);
    std::vector<float> logits(c.vocab, 0.0f);
    for (int i = 0; i < rounds(); ++i) {
      Mailbox box(engine);
      const std::uint64_t request = box.begin({});
      const std::uint32_t branch = box.open(request, {}, 0, 0), idle = box.open(request, {}, 0, 0);
      box.extend(request, branch, ids.data(), ids.size(), {});
      std::thread other([&] { box.cancel(request); });
      try {
        box.choose(request, idle, logits.data(), nullptr);
      } catch (const Error& e) {
        wrong += e.kind() != ErrorKind::kInvalidRequest;
      }
      other.join();
      wrong += box.live() != 0;
    }
  });
  for (std::thread& t : threads) t.join();
  REQUIRE(wrong == 0);
  REQUIRE(engine.stats().blocks_used == 0);
  REQUIRE(engine.stats().waiting + engine.stats().running == 0);
}

TEST_CASE("guesses are kept as far as they are what is chosen, and the text is that without guesses") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  const Request r = request(random_ids(60, 4), 9, 60);
  const Answer plain = run(engine, {r}).front();
  for (unsigned seed = 0; seed < 6; ++seed) {
    std::mt19937 bits(seed);
    Mailbox box(engine);
    const std::uint64_t number = box.begin({});
    const std::uint32_t branch = box.open(number, r.params, 0, 0);
    Ids next = r.ids, got;
    std::vector<Event> events;
    while (got.size() < 50) {
      Ask ask;
      ask.drafts = bits() % 6;
      Ids tokens = next;
      for (std::size_t i = 0; i < ask.drafts; ++i) {  // right ones, and now and then a wrong one
        const std::int32_t right = plain.tokens[got.size() + i];
        tokens.push_back(bits() % 4 == 0 ? (right + 1) % 131 : right);
      }
      std::size_t right = 0;
      while (right < ask.drafts && tokens[next.size() + right] == plain.tokens[got.size() + right]) ++right;
      REQUIRE(box.extend(number, branch, tokens.data(), tokens.size(), ask));
      REQUIRE(box.wait(events, nullptr));
      REQUIRE(events.size() == 1);
      const Reply& reply = *events[0].reply;
      REQUIRE(reply.choices.size() == right + 1);
      for (const sampling::Choice& choice : reply.choices) {
        REQUIRE(choice.token == plain.tokens[got.size()]);
        REQUIRE(choice.logprob == plain.logprobs[got.size()]);
        got.push_back(choice.token);
      }
      REQUIRE(reply.length == r.ids.size() + got.size() - 1);
      next = {got.back()};
    }
  }
}

TEST_CASE("wrong calls are errors that name what is wrong, and change nothing") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  Mailbox box(engine);
  const Ids ids = random_ids(10, 1);
  CHECK_THROWS_WITH_AS(box.open(7, {}, 0, 0), doctest::Contains("request"), Error);
  const std::uint64_t request = box.begin({});
  const std::uint32_t branch = box.open(request, {}, 0, 0);
  CHECK_THROWS_WITH_AS(box.rewind(request, branch, 1), doctest::Contains("length"), Error);
  CHECK_THROWS_WITH_AS(box.fork(request, branch + 1), doctest::Contains("branch"), Error);
  Ask ask;
  ask.drafts = 10;
  CHECK_THROWS_WITH_AS(box.extend(request, branch, ids.data(), 10, ask), doctest::Contains("drafts"), Error);
  ask = {};
  ask.layers = {3};
  CHECK_THROWS_WITH_AS(box.extend(request, branch, ids.data(), 10, ask), doctest::Contains("layers"), Error);
  ask = {};
  ask.mask = {1};
  CHECK_THROWS_WITH_AS(box.extend(request, branch, ids.data(), 10, ask), doctest::Contains("mask"), Error);
  REQUIRE(box.live() == 0);
  REQUIRE(box.extend(request, branch, ids.data(), 10, {}));
  CHECK_THROWS_WITH_AS(box.fork(request, branch), doctest::Contains("not answered yet"), Error);
  std::vector<Event> events;
  REQUIRE(box.wait(events, nullptr));
  REQUIRE_FALSE(box.wait(events, nullptr));
  box.cancel(request);
  REQUIRE(engine.stats().blocks_used == 0);
}

}  // namespace
