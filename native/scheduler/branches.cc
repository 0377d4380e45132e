// Branches: sequences that their owner extends, forks and rewinds. See scheduler.h.
#include <string>

#include "base/errors.h"
#include "scheduler/by_age.h"
#include "scheduler/scheduler.h"

namespace gpt2::scheduler {
namespace {

// A branch that was idle for more steps than this counts as one whose reader lags. A strategy that runs extends its
// branches in the next step, or in the one after it when its thread comes late.
constexpr std::uint64_t kPatience = 16;

}  // namespace

std::uint64_t Scheduler::open_request() {
  require_place(1);
  ++requests_;
  return next_order_++;
}

void Scheduler::open(Sequence& s) {
  make_room_for_branch();
  s.blocks.reserve(blocks_for(limits_.positions));
  s.branch = true;
  s.state = State::kIdle;
  s.idle_since = steps_;
  ++branches_;
}

void Scheduler::branch(const Sequence& from, Sequence& s) {
  s.tokens.reserve(from.tokens.size() + kBlockTokens);
  s.tokens = from.tokens;
  open(s);
  s.window_start = from.window_start;
  s.slides = from.slides;
  s.started = from.started;
  for (const BlockId block : from.blocks) {
    pool_.share(block);
    s.blocks.push_back(block);
  }
  s.computed = from.computed;
  s.published = from.published;
  s.content = from.content;
  if (!s.blocks.empty()) insert_by_age(parked_, s);
}

// All lists have room for all branches, so that later moves allocate nothing.
void Scheduler::make_room_for_branch() {
  const auto grow = [](std::vector<Sequence*>& list, std::size_t most) {
    if (list.capacity() < most) list.reserve(2 * most);
  };
  const std::size_t submitted = limits_.max_running + limits_.max_waiting;
  grow(parked_, branches_ + 1);
  grow(waiting_, submitted + branches_ + 1);
  grow(plan_.expired, submitted + branches_ + 1);
}

std::size_t Scheduler::slides_of(std::size_t length) const {
  if (length <= limits_.positions) return 0;
  const std::size_t period = limits_.positions + 1 - half();
  return (length - limits_.positions + period - 1) / period;
}

std::size_t Scheduler::extend(Sequence& s, const std::int32_t* ids, std::size_t count, std::size_t guesses,
                              std::size_t asked) {
  const std::size_t sure = s.tokens.size() + count - guesses;
  if (!s.slide && sure > limits_.positions) return kFull;
  const std::size_t slides = slides_of(sure), start = window_start_of(slides);
  guesses = std::min(guesses, start + limits_.positions - sure);
  const std::size_t window = sure + guesses - start;
  if (blocks_for(window) > limits_.blocks) {
    throw Error(ErrorKind::kInvalidRequest, "the request can never fit the cache", std::to_string(window) + " tokens",
                "at most " + std::to_string(limits_.blocks * kBlockTokens),
                "a shorter prompt, or a larger cache_bytes");
  }
  if (s.tokens.capacity() < sure + guesses) s.tokens.reserve(2 * (sure + guesses));
  s.tokens.insert(s.tokens.end(), ids, ids + (sure + guesses - s.tokens.size()));
  leave_parked(s);
  if (start != s.window_start) release_blocks(s);
  s.window_start = start;
  s.slides = static_cast<std::uint32_t>(slides);
  s.guesses = guesses;
  s.asked = std::min(std::max(asked, guesses + 1), window);
  truncate(s, std::min(s.computed, window - s.asked));
  if (!s.blocks.empty() && running_.size() < limits_.max_running) {
    run_again(s);
  } else {
    queue(s);
    if (!s.blocks.empty()) insert_by_age(parked_, s);
  }
  return guesses;
}

void Scheduler::run_again(Sequence& s) {
  s.state = State::kRunning;
  s.rows = 0;
  s.passed_over = false;
  insert_by_age(running_, s);
}

// Branches that wait for a place alone.
void Scheduler::resume() {
  for (std::size_t i = 0; i < parked_.size() && running_.size() < limits_.max_running;) {
    Sequence& s = *parked_[i];
    if (s.state == State::kIdle || s.paused) {
      ++i;
      continue;
    }
    erase_from(waiting_, s);
    erase_from(parked_, s);
    run_again(s);
  }
}

void Scheduler::park(Sequence& s) {
  erase_from(running_, s);
  s.state = State::kIdle;
  s.guesses = 0;
  s.asked = 1;
  s.idle_since = steps_;
  insert_by_age(parked_, s);
}

void Scheduler::rewind(Sequence& s, std::size_t length) {
  s.tokens.resize(std::min(length, s.tokens.size()));
  const std::size_t slides = s.slide ? slides_of(s.tokens.size()) : 0;
  if (slides != s.slides) {
    leave_parked(s);
    release_blocks(s);
  }
  s.slides = static_cast<std::uint32_t>(slides);
  s.window_start = window_start_of(slides);
  if (s.window() >= s.computed) return;
  leave_parked(s);
  truncate(s, s.window());
  if (!s.blocks.empty()) insert_by_age(parked_, s);
}

// Forgets the positions after the first `keep`, and gives their blocks back.
void Scheduler::truncate(Sequence& s, std::size_t keep) {
  while (s.published * kBlockTokens > keep) s.content = pool_.before(s.blocks[--s.published]);
  while (s.blocks.size() > blocks_for(keep)) {
    pool_.release(s.blocks.back());
    s.blocks.pop_back();
  }
  s.computed = std::min(s.computed, keep);
}

void Scheduler::leave_parked(Sequence& s) {
  if (!s.branch || s.blocks.empty() || s.state == State::kRunning) return;
  erase_from(parked_, s);
}

bool Scheduler::left_alone(const Sequence& parked) const {
  return parked.paused || (parked.state == State::kIdle && steps_ - parked.idle_since > kPatience);
}

Sequence* Scheduler::youngest_left_alone() const {
  const auto last =
      std::find_if(parked_.rbegin(), parked_.rend(), [this](const Sequence* s) { return left_alone(*s); });
  return last == parked_.rend() ? nullptr : *last;
}

// The youngest idle branch of the same request.
Sequence* Scheduler::idle_sibling(const Sequence& s) const {
  const auto last = std::find_if(parked_.rbegin(), parked_.rend(), [&](const Sequence* other) {
    return other->order == s.order && other->state == State::kIdle;
  });
  return last == parked_.rend() ? nullptr : *last;
}

}  // namespace gpt2::scheduler
