// One sequence as the scheduler sees it: its tokens, its blocks, and where it stands.
//
//   waiting  -> running   admitted: it has blocks for all tokens that it holds
//   running  -> waiting   preempted: its blocks are gone (what was published may still be found), its tokens stay
//   anything -> finished  the scheduler has forgotten it
//   held                  an alternative that waits for the first of its request to encode the prompt
//   idle                  a branch (scheduler.h) that has nothing to compute until its owner extends it; it keeps its
//                         blocks, and keeps them while it waits for a place, unless others need them more
//
// The window is the part of the tokens that the model sees, from position 0; it begins later than the prompt once it
// has slid.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "scheduler/block_pool.h"

namespace gpt2::scheduler {

enum class State { kFinished, kHeld, kWaiting, kRunning, kIdle };

inline constexpr std::int64_t kNoDeadline = std::numeric_limits<std::int64_t>::max();

struct Sequence {
  // Given by whoever submits it; constant afterwards, but for the tokens that append() adds.
  std::vector<std::int32_t> tokens;  // prompt, then what was generated
  std::size_t max_new_tokens = 1;
  bool slide = false;  // when the window is full: go on with its second half
  bool share = true;   // prefixes are looked up and published
  Space space;
  std::uint32_t alternative = 0;
  std::int64_t deadline = kNoDeadline;  // for its first admission
  std::uint64_t kin = 0;                // rows of one kin lie side by side in a step
  bool branch = false;                  // its owner appends its tokens, by Scheduler::extend()

  // Kept by the scheduler.
  State state = State::kFinished;
  std::uint64_t order = 0;  // of arrival; the alternatives of a request have the same
  std::size_t generated = 0, window_start = 0;
  std::size_t computed = 0;  // positions of the window that have keys and values
  std::size_t hits = 0;      // tokens that were found and not computed, in all
  std::uint32_t slides = 0, preemptions = 0;
  std::vector<BlockId> blocks;   // of the window, in order
  std::size_t published = 0;     // the first of them, which are full and have the content ...
  ContentId content = 0;         // ... that ends with this
  bool paused = false;           // its reader lags: not to be scheduled
  bool passed_over = false;      // there was no row for it in the last step
  bool started = false;          // was admitted once
  std::size_t rows = 0;          // of the step that is being planned
  std::size_t asked = 1;         // its last tokens that are computed whatever is cached: their results are wanted
  std::size_t guesses = 0;       // its last tokens that may be taken back: never published
  std::uint64_t idle_since = 0;  // of a branch: the step

  std::size_t window() const { return tokens.size() - window_start; }
  std::size_t pending() const { return window() - computed; }
  bool older_than(const Sequence& other) const {
    return std::tie(order, alternative) < std::tie(other.order, other.alternative);
  }
};

}  // namespace gpt2::scheduler
