// The scheduler against a model of a cache: every slot of every block remembers which tokens it stands for, so that a
// block that is shared wrongly, copied too late or freed too early is a wrong slot. Then fairness, edges and refusals.
#include "scheduler/scheduler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>

#include "base/errors.h"

namespace {

using namespace gpt2;
using namespace gpt2::scheduler;

const Space kSpace = std::make_shared<const std::string>("model");

// What a slot holds: a name for all tokens of the window up to its position.
using Slot = std::uint64_t;
Slot extend(Slot before, std::int32_t token) {
  return (before ^ static_cast<std::uint32_t>(token + 1)) * 0x100000001b3u + 0x9e3779b97f4a7c15u;
}

class World {
 public:
  explicit World(const Limits& limits)
      : scheduler(limits), slots_(limits.blocks * kBlockTokens, 0), positions_(limits.positions) {}

  Sequence* submit(std::vector<std::int32_t> prompt, std::size_t max_new, std::size_t alternatives = 1,
                   bool slide = false, bool share = true, const Space& space = kSpace) {
    std::vector<Sequence*> pointers;
    std::vector<std::unique_ptr<Sequence>> group;
    for (std::size_t k = 0; k < alternatives; ++k) {
      group.push_back(std::make_unique<Sequence>());
      Sequence& s = *group.back();
      s.tokens = prompt;
      s.max_new_tokens = max_new;
      s.slide = slide;
      s.share = share;
      s.space = space;
      s.alternative = static_cast<std::uint32_t>(k);
      pointers.push_back(&s);
    }
    scheduler.submit(pointers.data(), alternatives);
    for (std::size_t k = 1; k < alternatives; ++k) waits_for_[pointers[0]].push_back(pointers[k]);
    for (auto& s : group) all.push_back(std::move(s));
    return pointers[0];
  }

  // Computes one step; returns how many pieces it had. Tokens are chosen by `next`.
  template <typename Next>
  std::size_t step(const Next& next, std::int64_t now = 0) {
    const Plan& plan = scheduler.plan(now);
    for (const Copy& c : plan.copies) {
      std::copy_n(slots_.begin() + c.from * kBlockTokens, kBlockTokens, slots_.begin() + c.to * kBlockTokens);
    }
    std::size_t rows = 0;
    for (const Piece& p : plan.pieces) {
      compute(p);
      rows += p.count;
    }
    CHECK(rows <= scheduler.limits().rows);
    rows_of_last_step = rows;
    const std::vector<Piece> pieces = plan.pieces;
    const std::vector<Sequence*> expired = plan.expired;
    for (Sequence* s : expired) drop(*s);
    scheduler.computed();
    for (const Piece& p : pieces) {
      if (!p.sample) continue;
      std::vector<Sequence*> chosen = std::move(waits_for_[p.sequence]);
      waits_for_.erase(p.sequence);
      for (Sequence* held : chosen) scheduler.fork(*p.sequence, *held);
      chosen.push_back(p.sequence);
      for (Sequence* s : chosen) {
        const Finish finish = scheduler.append(*s, next(*s), false);
        if (finish != Finish::kNone) scheduler.drop(*s);
      }
    }
    scheduler.check();
    return pieces.size();
  }
  std::size_t step() {
    return step([](const Sequence& s) { return static_cast<std::int32_t>(s.generated % 3); });
  }

  void drop(Sequence& s) {
    for (Sequence* held : waits_for_[&s]) scheduler.enqueue(*held);
    waits_for_.erase(&s);
    scheduler.drop(s);
  }

  std::size_t unfinished() const {
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [](const auto& s) { return s->state != State::kFinished; }));
  }

  Scheduler scheduler;
  std::vector<std::unique_ptr<Sequence>> all;
  std::size_t rows_of_last_step = 0;

 private:
  void compute(const Piece& p) {
    const Sequence& s = *p.sequence;
    Slot before = 0;
    for (std::size_t i = 0; i < p.start + p.count; ++i) {
      const BlockId block = s.blocks.at(i / kBlockTokens);
      const Slot now = extend(before, s.tokens.at(s.window_start + i));
      Slot& slot = slots_[block * kBlockTokens + i % kBlockTokens];
      if (i < p.start && slot != now) throw std::logic_error("a slot holds other tokens than its sequence has");
      slot = before = now;
      if (i >= p.start && scheduler.pool().references(block) != 1) throw std::logic_error("a write to a shared block");
    }
    if (p.start + p.count > positions_) throw std::logic_error("a position outside the window");
  }

  std::vector<Slot> slots_;
  std::size_t positions_;
  std::map<const Sequence*, std::vector<Sequence*>> waits_for_;
};

Limits limits(std::size_t blocks, std::size_t rows = 256, std::size_t running = 16) {
  Limits out;
  out.blocks = blocks;
  out.positions = 200;
  out.rows = rows;
  out.max_running = running;
  out.max_waiting = 64;
  return out;
}

// Few different tokens and lengths at the edges of blocks: prefixes meet often.
std::vector<std::int32_t> prompt(std::mt19937& bits) {
  static const std::size_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 199, 200};
  std::vector<std::int32_t> out(lengths[bits() % std::size(lengths)]);
  const unsigned change = bits() % 250;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = i == change ? 2 : static_cast<std::int32_t>(i % 5);
  return out;
}

TEST_CASE("whatever comes, no slot is wrong, no block is lost, and all get to their end") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 bits(seed);
    Limits l = limits(4 + bits() % 12, 1 + bits() % 256, 1 + bits() % 16);
    if (seed % 3 == 0) l.hash_mask = seed % 2;  // hashes collide: tokens decide
    World w(l);
    const Space other = std::make_shared<const std::string>("other");
    const auto next = [&](const Sequence&) { return static_cast<std::int32_t>(bits() % 2); };
    for (int round = 0; round < 120; ++round) {
      const unsigned dice = bits() % 10;
      Sequence* any = w.all.empty() ? nullptr : w.all[bits() % w.all.size()].get();
      if (dice < 3) {
        try {
          w.submit(prompt(bits), 1 + bits() % 150, 1 + bits() % 4, bits() % 3 == 0, bits() % 4 != 0,
                   bits() % 5 == 0 ? other : kSpace);
        } catch (const Error& e) {
          REQUIRE(e.kind() == ErrorKind::kOverloaded);
        }
      } else if (dice == 3 && any != nullptr && any->state != State::kFinished) {
        if (any->state != State::kHeld) w.drop(*any);
      } else if (dice == 4 && any != nullptr) {
        w.scheduler.pause(*any, bits() % 2 == 0);
      } else if (dice == 5) {
        std::vector<BlockId> scratch;
        w.scheduler.take_scratch(1 + bits() % l.blocks, scratch);
        w.scheduler.release_scratch(scratch);
      }
      w.step(next);
    }
    for (const auto& s : w.all) w.scheduler.pause(*s, false);
    for (int round = 0; w.unfinished() > 0; ++round) {
      REQUIRE(round < 100000);
      REQUIRE((w.step(next) > 0 || w.rows_of_last_step == 0));
    }
    REQUIRE(w.scheduler.pool().used() == 0);
  }
}

TEST_CASE("a request whose prompt is cached computes its last token, at every edge of a block") {
  for (const std::size_t n : {1, 63, 64, 65, 128, 129}) {
    World w(limits(8));
    const std::vector<std::int32_t> ids(n, 1);
    w.submit(ids, 1);
    w.step();
    REQUIRE(w.unfinished() == 0);
    Sequence* again = w.submit(ids, 1);
    w.step();
    REQUIRE(w.unfinished() == 0);
    REQUIRE(again->hits == (n - 1) / kBlockTokens * kBlockTokens);
    REQUIRE(w.rows_of_last_step == n - again->hits);
  }
}

TEST_CASE("prefixes are shared within a space only, and not by those who do not want it") {
  World w(limits(8));
  const std::vector<std::int32_t> ids(130, 1);
  w.submit(ids, 1);
  w.step();
  Sequence* salted = w.submit(ids, 1, 1, false, true, std::make_shared<const std::string>("salt"));
  w.step();
  REQUIRE(salted->hits == 0);
  Sequence* alone = w.submit(ids, 1, 1, false, false);
  w.step();
  REQUIRE(alone->hits == 0);
  Sequence* same = w.submit(ids, 1, 1, false, true, std::make_shared<const std::string>("salt"));
  w.step();
  REQUIRE(same->hits == 128);
}

TEST_CASE("two that compute the same at the same time end with one copy") {
  World w(limits(8));
  const std::vector<std::int32_t> ids(100, 1);
  w.submit(ids, 5), w.submit(ids, 5);
  w.step();
  REQUIRE(w.all[0]->blocks[0] == w.all[1]->blocks[0]);
  REQUIRE(w.scheduler.pool().used() == 3);
}

TEST_CASE("alternatives share the prompt's blocks and copy the one that they write to") {
  World w(limits(8));
  w.submit(std::vector<std::int32_t>(100, 1), 5, 3);
  w.step();
  REQUIRE(w.scheduler.running() == 3);
  REQUIRE(w.scheduler.pool().used() == 2);
  w.step();
  REQUIRE(w.scheduler.pool().used() == 4);  // the full one, and three of the other
}

TEST_CASE("nobody overtakes the queue, though a small request would fit") {
  World w(limits(4));
  Sequence* large = w.submit(std::vector<std::int32_t>(190, 1), 5);
  w.step();
  Sequence* second = w.submit(std::vector<std::int32_t>(150, 2), 5);
  Sequence* small = w.submit({1}, 5);
  while (large->state != State::kFinished) {
    w.step();
    REQUIRE(small->state == State::kWaiting);
  }
  w.step();
  REQUIRE(second->state == State::kRunning);
}

TEST_CASE("a lagging reader is passed by, gives way, and comes back") {
  World w(limits(4));
  Sequence* lags = w.submit(std::vector<std::int32_t>(190, 1), 5);
  w.step();
  w.scheduler.pause(*lags, true);
  Sequence* other = w.submit(std::vector<std::int32_t>(150, 2), 5);
  for (int i = 0; i < 10; ++i) w.step();
  REQUIRE(other->state == State::kFinished);
  REQUIRE(lags->preemptions == 1);
  REQUIRE(lags->generated == 1);
  w.scheduler.pause(*lags, false);
  for (int i = 0; i < 10; ++i) w.step();
  REQUIRE(lags->state == State::kFinished);
}

TEST_CASE("a batch full of lagging readers stops nobody") {
  World w(limits(16, 256, 2));
  for (int i = 0; i < 2; ++i) w.submit({1}, 50);
  w.step();
  for (const auto& s : w.all) w.scheduler.pause(*s, true);
  Sequence* third = w.submit({2}, 2);
  for (int i = 0; i < 5; ++i) w.step();
  REQUIRE(third->state == State::kFinished);
}

TEST_CASE("memory goes to the oldest, by preempting the youngest") {
  World w(limits(4));
  Sequence* old = w.submit(std::vector<std::int32_t>(60, 1), 120);
  Sequence* young = w.submit(std::vector<std::int32_t>(60, 2), 120);
  while (old->state != State::kFinished) {
    w.step();
    REQUIRE(old->preemptions == 0);
  }
  REQUIRE(young->preemptions > 0);
  while (young->state != State::kFinished) REQUIRE(w.step() > 0);
  REQUIRE(young->hits > 0);  // what was published before the preemption was found again
}

TEST_CASE("with more sequences than rows each gets on at least every second step, and prefill a quarter") {
  World w(limits(64, 16, 16));
  for (int i = 0; i < 15; ++i) w.submit({1}, 100);
  for (int i = 0; i < 3; ++i) w.step();
  std::vector<std::size_t> before;
  Sequence* prefill = w.submit(std::vector<std::int32_t>(150, 2), 5);
  for (int round = 0; round < 10; ++round) {
    before.clear();
    for (const auto& s : w.all) before.push_back(s->generated);
    const std::size_t computed = prefill->computed;
    w.step(), w.step();
    for (std::size_t i = 0; i < 15; ++i) REQUIRE(w.all[i]->generated > before[i]);
    REQUIRE(prefill->computed >= computed + 8);
  }
}

TEST_CASE("what can never fit, and what is too much, is refused at once") {
  World w(limits(2));
  CHECK_THROWS_WITH_AS(w.submit(std::vector<std::int32_t>(100, 1), 30), doctest::Contains("never fit"), Error);
  w.submit(std::vector<std::int32_t>(100, 1), 29);
  for (int i = 0; i < 16 + 64 - 1; ++i) w.submit({1}, 1);
  CHECK_THROWS_WITH_AS(w.submit({1}, 1), doctest::Contains("queue is full"), Error);
  std::vector<BlockId> scratch;
  CHECK_THROWS_WITH_AS(w.scheduler.take_scratch(3, scratch), doctest::Contains("cache"), Error);
  while (w.unfinished() > 0) w.step();
}

TEST_CASE("a deadline ends the wait of those that never ran") {
  World w(limits(2, 256, 1));
  Sequence* runs = w.submit({1}, 20);
  Sequence* waits = w.submit({1}, 20);
  runs->deadline = waits->deadline = 100;
  const auto next = [](const Sequence&) { return 0; };
  w.step(next, 50);
  w.step(next, 99);
  REQUIRE(waits->state == State::kWaiting);
  w.step(next, 100);
  REQUIRE(waits->state == State::kFinished);
  REQUIRE(runs->state == State::kRunning);
}

TEST_CASE("a full window ends a sequence, or slides and begins again with half of it") {
  World w(limits(4));
  Sequence* stops = w.submit(std::vector<std::int32_t>(199, 1), 100);
  while (stops->state != State::kFinished) w.step();
  REQUIRE(stops->tokens.size() == 201);
  Sequence* slides = w.submit(std::vector<std::int32_t>(199, 1), 250, 1, true);
  while (slides->state != State::kFinished) w.step();
  REQUIRE(slides->generated == 250);
  REQUIRE(slides->slides == 3);
}

TEST_CASE("sequences of one kin lie side by side in a step, and in the order of age among themselves") {
  Limits limits;
  limits.blocks = 20, limits.positions = 100, limits.rows = 64, limits.max_running = 8, limits.max_waiting = 8;
  World world(limits);
  const std::uint64_t kins[] = {2, 0, 1, 2, 0, 1, 2};
  std::vector<Sequence*> submitted;
  for (const std::uint64_t kin : kins) {
    submitted.push_back(world.submit({1, 2, 3}, 3));
    submitted.back()->kin = kin;
  }
  const Plan& plan = world.scheduler.plan(0);
  std::vector<Sequence*> got;
  for (const Piece& piece : plan.pieces) got.push_back(piece.sequence);
  const std::vector<Sequence*>& s = submitted;
  CHECK(got == std::vector<Sequence*>{s[1], s[4], s[2], s[5], s[0], s[3], s[6]});
}

}  // namespace
