// The engine on a small random model: the same bits whatever the company, the chunks, the blocks, the threads; and
// errors that leave it usable.
#include "engine/engine.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "base/errors.h"
#include "tests/small_model.h"

namespace {

using namespace gpt2;
using namespace gpt2::testing;

std::vector<float> logits(Engine& engine, const std::vector<std::int32_t>& ids, std::size_t first = 0) {
  std::vector<float> out((ids.size() - first) * engine.config().vocab);
  engine.logits(ids.data(), ids.size(), first, out.data(), nullptr);
  return out;
}

TEST_CASE("a prefix has the logits that it has in the whole, whatever the number of threads") {
  const Config c = small();
  const Storage storage(c);
  Engine one(c, storage.tensors, with(1)), three(c, storage.tensors, with(3));
  const std::vector<std::int32_t> ids = random_ids(c.positions, 1);
  const std::vector<float> whole = logits(one, ids);
  REQUIRE(logits(three, ids) == whole);
  for (const std::size_t n : {1, 2, 13, 63, 64, 65, 128, 149}) {
    const std::vector<std::int32_t> prefix(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
    const std::vector<float> last = logits(three, prefix, n - 1);
    for (std::size_t v = 0; v < c.vocab; ++v) REQUIRE(last[v] == whole[(n - 1) * c.vocab + v]);
  }
}

// Requests that meet at the edges of blocks and share prefixes.
std::vector<Request> mix(const Config& c, unsigned seed, std::size_t count) {
  std::mt19937 bits(seed);
  static const std::size_t lengths[] = {1, 5, 62, 63, 64, 65, 100, 127, 128, 129};
  std::vector<Request> out;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::int32_t> ids = random_ids(lengths[bits() % std::size(lengths)], seed + bits() % 2);
    if (bits() % 2) ids.back() = static_cast<std::int32_t>(bits() % c.vocab);
    Request r = request(std::move(ids), bits(), 1 + bits() % 12);
    r.alternatives = 1 + bits() % 3;
    r.slide = bits() % 2;
    if (bits() % 5 == 0) r.max_new_tokens = 60;
    if (bits() % 3 == 0) r.params.repetition_penalty = 1.2;
    r.share_prefix = bits() % 4 != 0;
    if (bits() % 4 == 0) r.salt = "salt";
    out.push_back(std::move(r));
  }
  return out;
}

TEST_CASE("company, chunks, blocks, prefixes, preemption and threads never change an answer") {
  const Config c = small();
  const Storage storage(c);
  EngineOptions plain = with(1);
  plain.prefix_cache = false;
  Engine lonely(c, storage.tensors, plain);
  std::uint64_t preemptions = 0, hits = 0;
  struct Way {
    std::size_t rows, blocks, batch;
  };
  for (unsigned seed = 0; seed < 6; ++seed) {
    CAPTURE(seed);
    const std::vector<Request> requests = mix(c, seed, 1 + 2 * seed);
    std::vector<Answer> alone;
    for (const Request& r : requests) {
      for (Answer& a : run(lonely, {r})) alone.push_back(std::move(a));
    }
    for (const Way& way : {Way{1, 40, 16}, Way{7, 5, 2}, Way{64, 3, 16}, Way{100, 6, 16}, Way{256, 40, 16}}) {
      CAPTURE(way.rows);
      EngineOptions o = with(1 + static_cast<int>((seed + way.blocks) % 2));
      o.step_tokens = way.rows;
      o.cache_bytes = way.blocks * lonely.stats().block_bytes;
      o.max_batch = way.batch;
      Engine engine(c, storage.tensors, o);
      REQUIRE(run(engine, requests) == alone);
      REQUIRE(run(engine, requests) == alone);  // what it cached is right, too
      const Stats s = engine.stats();
      REQUIRE(s.blocks_used == 0);
      REQUIRE(s.waiting + s.running == 0);
      preemptions += s.preemptions, hits += s.prefix_hit_tokens;
    }
  }
  REQUIRE(preemptions > 10);
  REQUIRE(hits > 5000);
}

TEST_CASE("score is the log-softmax of the logits") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  const std::vector<std::int32_t> ids = random_ids(100, 5);
  const std::vector<float> all = logits(engine, ids);
  std::vector<float> scores(99);
  engine.score(ids.data(), ids.size(), scores.data(), nullptr);
  for (std::size_t i = 0; i < 99; ++i) {
    REQUIRE(scores[i] == sampling::log_softmax_at(all.data() + i * c.vocab, c.vocab, ids[i + 1]));
  }
}

TEST_CASE("a full window ends the text, or slides") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  Request r = request(random_ids(c.positions, 6), 1, 200);
  Answer stopped = run(engine, {r}).front();
  REQUIRE(stopped.tokens.size() == 1);
  REQUIRE(stopped.ended == Ended::kContext);
  r.slide = true;
  const Answer slid = run(engine, {r}).front();
  REQUIRE(slid.tokens.size() == 200);
  REQUIRE(slid.slides == 3);
  REQUIRE(slid.ended == Ended::kLength);
  // What follows a slide is what the second half of the window says, encoded anew.
  std::vector<std::int32_t> half(r.ids.end() - 74, r.ids.end());
  half.push_back(slid.tokens[0]);
  const std::vector<float> last = logits(engine, half, 74);
  REQUIRE(slid.logprobs[1] == sampling::log_softmax_at(last.data(), c.vocab, slid.tokens[1]));
}

TEST_CASE("a poll that throws leaves the requests where they were") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  const Request r = request(random_ids(60, 8), 0, 3);
  const Answer expected = run(engine, {r}).front();
  struct Interrupt {};
  Mailbox box(engine);
  Request fresh = r;
  fresh.share_prefix = false;
  box.submit(fresh);
  std::vector<Event> events;
  int calls = 0;
  const auto poll = [&] {
    if (++calls == 2) throw Interrupt();
  };
  CHECK_THROWS_AS(box.wait(events, poll), Interrupt);
  REQUIRE(box.live() == 1);
  Answers answers;
  while (box.wait(events, nullptr)) add(answers, events);
  REQUIRE(answers.begin()->second == expected);
}

TEST_CASE("stop tokens end an alternative, and cancelling ends what it names") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  Request r = request(random_ids(70, 3), 4, 40);
  const Answer whole = run(engine, {r}).front();
  r.params.stop_token_ids = {whole.tokens[5]};
  const Answer stopped = run(engine, {r}).front();
  REQUIRE(stopped.ended == Ended::kStop);
  REQUIRE(stopped.tokens.back() == whole.tokens[5]);
  REQUIRE(stopped.tokens.size() <= 6);

  r.params.stop_token_ids.clear();
  r.alternatives = 3;
  Mailbox box(engine);
  const std::uint64_t id = box.submit(r);
  box.cancel(id, 0);  // before it began: the others go on without
  std::vector<Event> events;
  Answers answers;
  REQUIRE(box.wait(events, nullptr));
  box.cancel(id, 2);
  add(answers, events);
  while (box.wait(events, nullptr)) {
    std::erase_if(events, [](const Event& e) { return e.alternative == 2; });
    add(answers, events);
  }
  REQUIRE(box.live() == 0);
  REQUIRE(answers.count({id, 0}) == 0);
  REQUIRE(answers[{id, 1}].tokens.size() == 40);
  box.submit(r);
  REQUIRE(box.wait(events, nullptr));
  box.close();
  REQUIRE(engine.stats().blocks_used == 0);
  REQUIRE_FALSE(box.wait(events, nullptr));
}

TEST_CASE("an error of one request ends that request alone") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(2));
  Request bad = request(random_ids(10, 1), 0, 20);
  bad.params.no_repeat_ngram_size = 1;
  bad.params.min_new_tokens = 20;
  bad.params.stop_token_ids.clear();
  for (int id = 0; id < 130; ++id) bad.params.stop_token_ids.push_back(id);
  bad.ids[0] = 130;  // with every id but this one stopping, and this one banned, nothing is left to choose
  Request good = request(random_ids(65, 2), 0, 20);
  const Answer expected = run(engine, {good}).front();
  Mailbox box(engine);
  const std::uint64_t bad_id = box.submit(bad);
  box.submit(good);
  Answers answers;
  std::vector<Event> events;
  int failed = 0;
  while (box.wait(events, nullptr)) {
    for (const Event& e : events) {
      if (e.request != bad_id) continue;
      ++failed;
      REQUIRE(e.ended == Ended::kError);
      CHECK_THROWS_AS(std::rethrow_exception(e.error), Error);
    }
    std::erase_if(events, [&](const Event& e) { return e.request == bad_id; });
    add(answers, events);
  }
  REQUIRE(failed == 1);
  REQUIRE(answers.begin()->second == expected);
  REQUIRE(engine.stats().errors == 1);
}

TEST_CASE("a reader that lags stops its own sequence only") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  Mailbox slow(engine), fast(engine);
  Request r = request(random_ids(10, 1), 0, 50);
  r.unread = 4;
  slow.submit(r);
  fast.submit(r);
  std::vector<Event> events;
  std::size_t got = 0;
  while (fast.wait(events, nullptr)) got += events.size();
  REQUIRE(got == 50);
  REQUIRE(slow.wait(events, nullptr));
  REQUIRE(events.size() == 4);
  std::size_t rest = 4;
  while (slow.wait(events, nullptr)) rest += events.size();
  REQUIRE(rest == 50);
}

TEST_CASE("a request that waits too long, or finds the queue full, is told so") {
  const Config c = small();
  const Storage storage(c);
  EngineOptions o = with(1);
  o.max_batch = 1;
  o.max_queue = 2;
  Engine engine(c, storage.tensors, o);
  Mailbox box(engine);
  Request r = request(random_ids(10, 1), 0, 10);
  box.submit(r);
  Request hurry = r;
  hurry.timeout = 1e-9;
  const std::uint64_t late = box.submit(hurry);
  box.submit(r);
  CHECK_THROWS_WITH_AS(box.submit(r), doctest::Contains("queue is full"), Error);
  std::vector<Event> events;
  int expired = 0;
  while (box.wait(events, nullptr)) {
    for (const Event& e : events) {
      expired += e.error ? 1 : 0;
      REQUIRE((e.request == late) == static_cast<bool>(e.error));
    }
  }
  REQUIRE(expired == 1);
}

TEST_CASE("other calls find their memory beside running sequences") {
  const Config c = small();
  const Storage storage(c);
  EngineOptions o = with(1);
  Engine roomy(c, storage.tensors, o);
  o.cache_bytes = 3 * roomy.stats().block_bytes;
  Engine engine(c, storage.tensors, o);
  const std::vector<std::int32_t> ids = random_ids(c.positions, 1);
  const Request r = request(random_ids(100, 2), 0, 30);
  Mailbox box(engine);
  box.submit(r);
  Answers answers;
  std::vector<Event> events;
  for (int i = 0; box.wait(events, nullptr); ++i) {
    add(answers, events);
    if (i == 5) REQUIRE(logits(engine, ids) == logits(roomy, ids));
  }
  REQUIRE(answers.begin()->second == run(roomy, {r}).front());
  REQUIRE(engine.stats().preemptions == 1);
}

TEST_CASE("wrong tensors, ids and parameters are errors that name them") {
  const Config c = small();
  Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  Mailbox box(engine);
  CHECK_THROWS_WITH_AS(box.submit(request({}, 0, 1)), doctest::Contains("token ids"), Error);
  CHECK_THROWS_WITH_AS(box.submit(request({0, 131}, 0, 1)), doctest::Contains("position 1: got 131"), Error);
  CHECK_THROWS_WITH_AS(box.submit(request({-1}, 0, 1)), doctest::Contains("position 0: got -1"), Error);
  CHECK_THROWS_WITH_AS(box.submit(request({1}, 0, 0)), doctest::Contains("max_new_tokens"), Error);
  CHECK_THROWS_AS(box.submit(request(random_ids(c.positions + 1, 1), 0, 1)), Error);
  EngineOptions little = with(1);
  little.cache_bytes = 100;
  CHECK_THROWS_WITH_AS(Engine(c, storage.tensors, little), doctest::Contains("cache_bytes: got 100"), Error);
  storage.tensors["h.1.mlp.c_fc.weight"].shape = {30, 51};
  CHECK_THROWS_WITH_AS(Engine(c, storage.tensors, with(1)), doctest::Contains("h.1.mlp.c_fc.weight"), Error);
  storage.tensors.erase("h.1.mlp.c_fc.weight");
  CHECK_THROWS_WITH_AS(Engine(c, storage.tensors, with(1)), doctest::Contains("got nothing"), Error);
  CHECK_THROWS_WITH_AS(choose_isa("sse9"), doctest::Contains("sse9"), Error);
}

}  // namespace
