// Many threads at one engine, and engines that come and go: under -fsanitize=thread (tests/test_native.py) a race is a
// failure. What each request gets is compared with what it gets alone. GPT2_TEST_SECONDS=3600 makes it last an hour.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "base/errors.h"
#include "tests/small_model.h"

namespace {

using namespace gpt2;
using namespace gpt2::testing;

// Some rounds of a loop, or as many as fit into a share of the seconds that GPT2_TEST_SECONDS gives the whole program.
class Rounds {
 public:
  Rounds(int rounds, double share) : left_(rounds) {
    const char* text = std::getenv("GPT2_TEST_SECONDS");
    if (text == nullptr) return;
    timed_ = true;
    end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(share * std::chrono::seconds(std::atoi(text)));
  }
  bool next() { return timed_ ? Clock::now() < end_ : left_-- > 0; }

 private:
  using Clock = std::chrono::steady_clock;
  int left_;
  bool timed_ = false;
  Clock::time_point end_;
};

constexpr double kMost = 0.8;  // of the time for the first case, which does everything; the rest for the second

// doctest's assertions are for one thread; the others count.
struct Tally {
  std::atomic<int> wrong{0}, right{0};
  void count(bool ok) { ++(ok ? right : wrong); }
};

Request some_request(unsigned seed) {
  Request r = request(random_ids(1 + seed * 37 % 130, seed % 3), seed, 1 + seed % 9);
  r.alternatives = 1 + seed % 3;
  r.slide = seed % 2 == 0;
  return r;
}

void generate(Engine& engine, const std::vector<std::vector<Answer>>& expected, unsigned thread, Tally& tally) {
  std::mt19937 bits(thread);
  for (Rounds rounds(12, kMost); rounds.next();) {
    const unsigned which = bits() % static_cast<unsigned>(expected.size());
    Mailbox box(engine);
    const std::uint64_t id = box.submit(some_request(which));
    std::vector<Event> events;
    Answers answers;
    const unsigned end = bits() % 4;  // read all, leave, cancel, or pause and go on
    while (box.wait(events, nullptr)) {
      for (const Event& e : events) {
        Answer& a = answers[{e.request, e.alternative}];
        a.tokens.push_back(e.choice.token);
        a.logprobs.push_back(e.choice.logprob);
        a.top.insert(a.top.end(), e.choice.top.begin(), e.choice.top.end());
        a.slides = e.slides;
        a.ended = e.ended;
      }
      if (end == 1) break;
      if (end == 2) box.cancel(id);
      if (end == 3) box.pause(id, true), box.pause(id, false);
    }
    if (end == 1 || end == 2) continue;
    std::vector<Answer> got;
    for (auto& [key, answer] : answers) got.push_back(std::move(answer));
    tally.count(got == expected[which]);
  }
}

TEST_CASE("threads that generate, cancel, pause, score and ask, with answers as if alone") {
  const Config c = small();
  const Storage storage(c);
  EngineOptions o = with(2);
  Engine reference(c, storage.tensors, o);
  std::vector<std::vector<Answer>> expected;
  for (unsigned seed = 0; seed < 12; ++seed) expected.push_back(run(reference, {some_request(seed)}));
  o.cache_bytes = 12 * reference.stats().block_bytes;  // little: preemption happens
  o.max_batch = 8;
  Engine engine(c, storage.tensors, o);
  const std::vector<std::int32_t> ids = random_ids(70, 1);
  std::vector<float> scores(69), states((c.layers + 1) * 70 * c.embd), logits(70 * c.vocab);
  reference.score(ids.data(), ids.size(), scores.data(), nullptr);
  reference.hidden_states(ids.data(), ids.size(), states.data(), nullptr);
  reference.logits(ids.data(), ids.size(), 0, logits.data(), nullptr);

  Tally tally;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) threads.emplace_back([&, t] { generate(engine, expected, t, tally); });
  threads.emplace_back([&] {
    std::vector<float> got_scores(scores.size()), got_states(states.size()), got_logits(logits.size());
    for (Rounds rounds(12, kMost); rounds.next();) {
      engine.score(ids.data(), ids.size(), got_scores.data(), nullptr);
      tally.count(got_scores == scores);
      engine.hidden_states(ids.data(), ids.size(), got_states.data(), nullptr);
      tally.count(got_states == states);
      engine.logits(ids.data(), ids.size(), 0, got_logits.data(), nullptr);
      tally.count(got_logits == logits);
      tally.count(engine.stats().blocks == 12);
    }
  });
  threads.emplace_back([&] {
    for (Rounds rounds(4, kMost); rounds.next();) {  // load and unload beside it
      Engine other(c, storage.tensors, with(2));
      Mailbox box(other);
      box.submit(some_request(3));
      std::vector<Event> events;
      tally.count(box.wait(events, nullptr));
    }
  });
  for (std::thread& t : threads) t.join();
  REQUIRE(tally.wrong == 0);
  MESSAGE("answers compared: " << tally.right.load());
  REQUIRE(tally.right > 36);
  REQUIRE(engine.stats().blocks_used == 0);
  REQUIRE(engine.stats().waiting + engine.stats().running == 0);
}

TEST_CASE("one reader, many who submit to its mailbox and cancel there") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  Mailbox box(engine);
  std::atomic<int> writers{3};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      Rounds rounds(12, 1 - kMost);
      for (unsigned i = 0; rounds.next(); ++i) {
        while (box.live() > 500) std::this_thread::yield();  // the queue has an end
        const std::uint64_t id = box.submit(some_request(t + i % 1000));
        if (i % 3 == 0) box.cancel(id, 0);
        if (i % 5 == 0) box.cancel(id);
      }
      --writers;
    });
  }
  std::vector<Event> events;
  std::size_t tokens = 0;
  while (box.wait(events, nullptr) || writers > 0) tokens += events.size();
  for (std::thread& t : threads) t.join();
  while (box.wait(events, nullptr)) tokens += events.size();
  MESSAGE("tokens read: " << tokens);
  REQUIRE(tokens > 0);
  REQUIRE(box.live() == 0);
  REQUIRE(engine.stats().blocks_used == 0);
}

}  // namespace
