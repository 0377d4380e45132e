// Which sequences run in the next step, with how many tokens each, and in which blocks: continuous batching over a
// paged cache (Yu et al. 2022, "Orca"; Kwon et al. 2023, arXiv:2309.06180).
//
// Pure bookkeeping: no tensors, no threads, no clock (the time is an argument). The owner computes what plan() says,
// reports computed(), and append()s the tokens that it chose. It may submit(), pause() and drop() in between, but must
// not drop a sequence of the plan before it has reported.
//
// Fairness, in the order of arrival (alternatives of one request: in their order):
//   admission   strictly in order. Nobody overtakes a request that waits for memory; only those whose reader lags are
//               passed by. A queued request runs within finite time, because the oldest one always can.
//   decoding    one token per sequence and step. With more sequences than rows, those that had to wait go first.
//   prefill     in order, with the rows that decoding leaves, but at least a quarter of them: long prompts are cut into
//               chunks and delay the others by one step each, and no number of others can stop them.
//   memory      an older sequence takes blocks from cached content first, then from sequences whose reader lags, then
//               from the youngest (preemption by recomputation): so the oldest always gets on.
//
// Branches (branches.cc) are sequences whose tokens the owner appends, several at a time, where decoding is more than
// one token after the other: they are forked, rewound and extended as a strategy wants. Between two extensions a branch
// is idle: no part of a step, not counted in a batch. It keeps its blocks as long as nobody needs them more: a running
// sequence takes those of younger requests, then those of idle branches of its own request (their answers are there),
// and of anybody's that were left alone for a while or when nothing else runs. An extended branch that has its blocks
// goes on at once, as a sequence that decodes does; one that has lost them is admitted again, at its request's age.
//
// Exceptions: submit(), open(), branch(), extend() and the constructor may throw, and then nothing has changed. All
// else allocates nothing but the token that append() adds.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/block_pool.h"
#include "scheduler/sequence.h"

namespace gpt2::scheduler {

struct Limits {
  std::size_t blocks = 0;     // of the pool
  std::size_t positions = 0;  // of a window
  std::size_t rows = 256;     // tokens of one step
  std::size_t max_running = 256;
  std::size_t max_waiting = 1024;
  std::uint64_t hash_mask = ~std::uint64_t{0};  // for tests, see BlockPool
};

enum class Finish { kNone, kLength, kStop, kContext };

// The next `count` tokens of a sequence, from position `start` of its window.
struct Piece {
  Sequence* sequence;
  std::size_t start, count;
  bool sample;  // they are its last: a token is to be chosen
};

// The owner copies block `from` to block `to`, in the order of the list and before anything is computed.
struct Copy {
  BlockId from, to;
};

struct Plan {
  std::vector<Piece> pieces;
  std::vector<Copy> copies;
  std::vector<Sequence*> expired;  // waited past their deadline; the owner drops them
};

struct Counters {
  std::uint64_t preemptions = 0;
  std::uint64_t prompt_tokens = 0;  // of admissions
  std::uint64_t hit_tokens = 0;     // of these, found in the prefix cache
};

class Scheduler {
 public:
  explicit Scheduler(const Limits& limits);

  const Limits& limits() const { return limits_; }
  const BlockPool& pool() const { return pool_; }
  const Counters& counters() const { return counters_; }
  std::size_t waiting() const { return waiting_.size(); }
  std::size_t running() const { return running_.size(); }
  std::size_t held() const { return held_; }

  // The alternatives of one request; all but the first are held until fork(). Throws kInvalidRequest when their window
  // can never fit the pool, kOverloaded when running and queue are full.
  void submit(Sequence* const* alternatives, std::size_t count);
  // Throws kOverloaded when so many more are too many.
  void require_place(std::size_t count) const;

  // The next step. The reference is good until the next call.
  const Plan& plan(std::int64_t now);
  // The pieces of the last plan have keys and values now: full blocks are published.
  void computed();
  // Takes a sequence out of the plan, so that it may be dropped.
  void withdraw(const Sequence& sequence);
  // A token was chosen for a sequence without pending ones; `stops` says that it ends the text. kNone: it goes on.
  Finish append(Sequence& sequence, std::int32_t token, bool stops);

  // A held alternative goes on from where `first`, which has encoded the prompt and got no token yet, stands: it shares
  // its blocks, and copies the last one when it writes there. Where there is no place for another sequence in the
  // batch, it is queued. Returns whether it runs.
  bool fork(const Sequence& first, Sequence& held);
  void enqueue(Sequence& held);  // without a first

  // A request of branches: refused as submit() refuses. Returns its order; close_request() when all are dropped.
  std::uint64_t open_request();
  void close_request() { --requests_; }
  // An idle branch without tokens; its `order` and `alternative` say how old it is.
  void open(Sequence& s);
  // `s` stands where `from`, which is idle, stands, and shares its blocks.
  void branch(const Sequence& from, Sequence& s);
  // Appends to an idle branch, of which the last `guesses` (fewer than count) may be taken back. The results of its
  // last `asked` tokens will be wanted. Returns how many guesses fit the window, or kFull when not even the others do
  // and it does not slide; then nothing has changed. Throws kInvalidRequest when the pool can never hold it.
  static constexpr std::size_t kFull = SIZE_MAX;
  std::size_t extend(Sequence& s, const std::int32_t* ids, std::size_t count, std::size_t guesses, std::size_t asked);
  // A branch that has computed all its tokens is idle from now on.
  void park(Sequence& s);
  // Forgets the tokens of an idle branch after the first `length`.
  void rewind(Sequence& s, std::size_t length);
  // Where the window of a text of `length` tokens begins that slides, and how often it did: as if one token had been
  // appended after the other.
  std::size_t slides_of(std::size_t length) const;
  std::size_t window_start_of(std::size_t slides) const { return slides * (limits_.positions + 1 - half()); }

  void pause(Sequence& sequence, bool paused) { sequence.paused = paused; }
  void drop(Sequence& sequence);  // from whatever state; its blocks are free at once

  // Blocks for something that is no sequence; preempts for them. Throws kInvalidRequest for more than the pool has.
  void take_scratch(std::size_t count, std::vector<BlockId>& out);
  void release_scratch(std::vector<BlockId>& blocks);

  // Throws std::logic_error when books and sequences do not agree. For tests; visits everything.
  void check() const;

 private:
  void admit();
  bool admit_one(Sequence& s);
  void find_prefix(Sequence& s);
  void swap_in_prefix(Sequence& s);
  void share_rows();
  std::size_t give_rows(std::size_t rows, bool passed_over);
  void give_memory();
  bool reserve(Sequence& s);
  BlockId take(const Sequence& for_whom);
  Sequence* victim(const Sequence& for_whom) const;
  Sequence* spare(const Sequence& for_whom) const;
  Sequence* youngest_lagging() const;
  void preempt(Sequence& s);
  void release_blocks(Sequence& s);
  void queue(Sequence& s);

  // branches.cc
  void resume();
  void run_again(Sequence& s);
  void truncate(Sequence& s, std::size_t keep);
  void make_room_for_branch();
  bool left_alone(const Sequence& parked) const;
  Sequence* youngest_left_alone() const;
  Sequence* idle_sibling(const Sequence& s) const;

  std::size_t half() const { return std::max<std::size_t>(1, limits_.positions / 2); }
  void leave_parked(Sequence& s);

  Limits limits_;
  BlockPool pool_;
  std::vector<Sequence*> waiting_, running_;  // both by age, oldest first
  std::vector<Sequence*> parked_;             // branches with blocks that do not run, by age
  std::size_t held_ = 0;
  std::size_t submitted_ = 0;  // sequences that are no branches, and that were not dropped
  std::size_t requests_ = 0;   // of branches
  std::size_t branches_ = 0;   // that were not dropped
  std::uint64_t next_order_ = 1;
  std::uint64_t steps_ = 0;
  Plan plan_;
  Counters counters_;
};

}  // namespace gpt2::scheduler
