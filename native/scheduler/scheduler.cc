#include "scheduler/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "base/errors.h"
#include "scheduler/by_age.h"

namespace gpt2::scheduler {
namespace {

bool decodes(const Sequence& s) { return !s.paused && s.pending() == 1; }
bool prefills(const Sequence& s) { return !s.paused && s.pending() > 1; }

}  // namespace

Scheduler::Scheduler(const Limits& limits) : limits_(limits), pool_(limits.blocks, limits.hash_mask) {
  if (limits.rows == 0 || limits.max_running == 0 || limits.positions == 0) {
    throw std::logic_error("a scheduler without rows, sequences or positions");
  }
  waiting_.reserve(limits.max_running + limits.max_waiting);
  running_.reserve(limits.max_running);
  plan_.pieces.reserve(limits.max_running);
  plan_.copies.reserve(limits.max_running);
  plan_.expired.reserve(limits.max_running + limits.max_waiting);
}

void Scheduler::submit(Sequence* const* alternatives, std::size_t count) {
  const Sequence& first = **alternatives;
  // The last token is chosen, never computed.
  const std::size_t room = limits_.positions - std::min(limits_.positions, first.window());
  const std::size_t most = first.window() + std::min(room, first.max_new_tokens - 1);
  if (blocks_for(most) > limits_.blocks) {
    throw Error(ErrorKind::kInvalidRequest, "the request can never fit the cache",
                std::to_string(most) + " tokens with those to be generated",
                "at most " + std::to_string(limits_.blocks * kBlockTokens),
                "a shorter prompt, fewer max_new_tokens, or a larger cache_bytes");
  }
  require_place(count);
  for (std::size_t k = 0; k < count; ++k) alternatives[k]->blocks.reserve(blocks_for(limits_.positions));
  for (std::size_t k = 0; k < count; ++k) {
    Sequence& s = *alternatives[k];
    s.order = next_order_;
    s.state = State::kHeld;
  }
  ++next_order_;
  held_ += count;
  submitted_ += count;
  enqueue(*alternatives[0]);
}

void Scheduler::require_place(std::size_t count) const {
  const std::size_t live = submitted_ + requests_, most = limits_.max_running + limits_.max_waiting;
  if (live + count <= most) return;
  const std::string more = count > 1 ? ", and " + std::to_string(count) + " more" : "";
  throw Error(ErrorKind::kOverloaded, "the queue is full", std::to_string(live) + " requests in it and running" + more,
              "at most " + std::to_string(most),
              count > most ? "fewer alternatives, or a larger max_queue" : "try again later");
}

void Scheduler::enqueue(Sequence& held) {
  --held_;
  queue(held);
}

void Scheduler::queue(Sequence& s) {
  s.state = State::kWaiting;
  insert_by_age(waiting_, s);
}

const Plan& Scheduler::plan(std::int64_t now) {
  ++steps_;
  plan_.pieces.clear();
  plan_.copies.clear();
  plan_.expired.clear();
  for (Sequence* s : waiting_) {
    if (!s->started && s->deadline <= now) plan_.expired.push_back(s);
  }
  if (!plan_.expired.empty()) return plan_;
  for (Sequence* s : running_) {
    if (prefills(*s)) swap_in_prefix(*s);
  }
  resume();
  admit();
  share_rows();
  give_memory();
  bool kin = false;
  for (Sequence* s : running_) {
    if (s->rows == 0) continue;
    plan_.pieces.push_back({s, s->computed, s->rows, s->rows == s->pending()});
    kin = kin || s->kin != 0;
  }
  if (kin) {
    std::sort(plan_.pieces.begin(), plan_.pieces.end(), [](const Piece& a, const Piece& b) {
      return a.sequence->kin != b.sequence->kin ? a.sequence->kin < b.sequence->kin : by_age(a.sequence, b.sequence);
    });
  }
  return plan_;
}

// Admits in order while there are rows that prefills could use, so that no prompt holds memory long before it needs it.
void Scheduler::admit() {
  std::size_t wanted = 0;
  for (const Sequence* s : running_) wanted += prefills(*s) ? s->pending() : 0;
  const auto has_place = [&] {
    if (Sequence * victim; running_.size() == limits_.max_running && (victim = youngest_lagging()) != nullptr) {
      preempt(*victim);
    }
    return running_.size() < limits_.max_running;
  };
  for (;;) {
    const auto next = std::find_if(waiting_.begin(), waiting_.end(), [](const Sequence* s) { return !s->paused; });
    if (next == waiting_.end() || wanted >= limits_.rows) return;
    Sequence& s = **next;
    if (!has_place()) return;
    if (!s.blocks.empty()) {
      leave_parked(s);
    } else if (!admit_one(s)) {
      return;
    }
    erase_from(waiting_, s);
    insert_by_age(running_, s);
    s.state = State::kRunning;
    s.started = true;
    wanted += s.pending();
  }
}

// Gives it the blocks of all its tokens: those of a prefix that was published, and new ones. False, and nothing has
// changed for it, when there are not enough.
bool Scheduler::admit_one(Sequence& s) {
  find_prefix(s);
  const std::size_t need = blocks_for(s.window()) - s.blocks.size();
  // Beside others leave each of them a block to grow, or else it would soon preempt this one again.
  const auto enough = [&] { return pool_.available() >= need + running_.size(); };
  for (Sequence* other; !enough() && (other = spare(s)) != nullptr;) preempt(*other);
  if (!enough()) {
    release_blocks(s);
    return false;
  }
  while (s.blocks.size() < blocks_for(s.window())) s.blocks.push_back(pool_.take());
  s.hits += s.computed;
  counters_.prompt_tokens += s.window();
  counters_.hit_tokens += s.computed;
  return true;
}

// Shares the published blocks that a sequence without blocks begins with; what is asked for is left to compute.
void Scheduler::find_prefix(Sequence& s) {
  if (!s.share) return;
  const std::int32_t* tokens = s.tokens.data() + s.window_start;
  while (s.computed + kBlockTokens + s.asked <= s.window()) {
    const BlockPool::Found found = pool_.find(s.content, s.space, tokens + s.computed);
    if (found.block == kNoBlock) return;
    pool_.share(found.block);
    s.blocks.push_back(found.block);
    s.content = found.content;
    s.computed += kBlockTokens;
    ++s.published;
  }
}

// Between two chunks of a prefill: what another sequence has published meanwhile need not be computed again.
void Scheduler::swap_in_prefix(Sequence& s) {
  if (!s.share) return;
  const std::int32_t* tokens = s.tokens.data() + s.window_start;
  while (s.computed == s.published * kBlockTokens && s.computed + kBlockTokens + s.asked <= s.window()) {
    const BlockPool::Found found = pool_.find(s.content, s.space, tokens + s.computed);
    if (found.block == kNoBlock) return;
    pool_.share(found.block);
    pool_.release(s.blocks[s.published]);
    s.blocks[s.published++] = found.block;
    s.content = found.content;
    s.computed += kBlockTokens;
    s.hits += kBlockTokens;
    counters_.hit_tokens += kBlockTokens;
  }
}

// Says how many rows each running sequence gets in this step.
void Scheduler::share_rows() {
  bool prefill = false;
  for (Sequence* s : running_) {
    s->rows = 0;
    prefill = prefill || prefills(*s);
  }
  // A quarter is kept for prefill; where that is less than a row, every fourth step has one.
  const std::size_t quarter = limits_.rows >= 4 ? limits_.rows / 4 : (steps_ % 4 == 0 ? 1 : 0);
  std::size_t rows = limits_.rows - (prefill ? quarter : 0);
  const std::size_t kept = limits_.rows - rows;
  rows = give_rows(rows, true);
  rows = give_rows(rows, false) + kept;
  for (Sequence* s : running_) {
    if (s->rows == 0 && decodes(*s)) s->passed_over = true;
    if (!prefills(*s)) continue;
    s->rows = std::min(rows, s->pending());
    rows -= s->rows;
  }
}

// One row for each sequence that decodes and was (or was not) passed over in the last step; returns the rows left.
std::size_t Scheduler::give_rows(std::size_t rows, bool passed_over) {
  for (Sequence* s : running_) {
    if (rows == 0) break;
    if (s->rows > 0 || s->passed_over != passed_over || !decodes(*s)) continue;
    s->rows = 1;
    s->passed_over = false;
    --rows;
  }
  return rows;
}

// Sees to it that each sequence of the step may write where its tokens go, the oldest first.
void Scheduler::give_memory() {
  for (std::size_t i = 0; i < running_.size();) {
    Sequence& s = *running_[i];
    if (s.rows > 0 && !reserve(s)) preempt(s);
    // Some may have been preempted, of whom some stood before it: go on with the next younger one.
    i = static_cast<std::size_t>(std::upper_bound(running_.begin(), running_.end(), &s, by_age) - running_.begin());
  }
}

bool Scheduler::reserve(Sequence& s) {
  while (s.blocks.size() < blocks_for(s.computed + s.rows)) {
    const BlockId block = take(s);
    if (block == kNoBlock) return false;
    s.blocks.push_back(block);
  }
  BlockId& last = s.blocks[s.computed / kBlockTokens];
  const auto is_own = [&] { return pool_.references(last) == 1 && !pool_.published(last); };
  if (is_own()) return true;
  // A fork that shares a block which is not full, or a branch that was rewound into a published one: it gets its own.
  const BlockId own = take(s);
  if (own == kNoBlock) return false;
  if (is_own()) {  // whoever shared it was preempted for the copy
    pool_.release(own);
    return true;
  }
  plan_.copies.push_back({last, own});
  pool_.release(last);
  last = own;
  return true;
}

// A block, if need be of somebody else's; kNoBlock when there is none.
BlockId Scheduler::take(const Sequence& for_whom) {
  for (;;) {
    const BlockId block = pool_.take();
    if (block != kNoBlock) return block;
    Sequence* other = victim(for_whom);
    if (other == nullptr) return kNoBlock;
    preempt(*other);
  }
}

// Who gives way to a running sequence that needs a block.
Sequence* Scheduler::victim(const Sequence& for_whom) const {
  if (Sequence* s = youngest_lagging(); s != nullptr) return s;
  if (Sequence* s = youngest_left_alone(); s != nullptr) return s;
  Sequence* youngest = running_.back();
  if (!parked_.empty() && youngest->older_than(*parked_.back())) youngest = parked_.back();
  if (youngest->order > for_whom.order) return youngest;
  if (Sequence* s = idle_sibling(for_whom); s != nullptr) return s;
  if (for_whom.older_than(*youngest)) return youngest;
  return running_.size() == 1 && !parked_.empty() ? parked_.back() : nullptr;
}

// Who gives way to a sequence that waits: nobody who runs, unless its reader lags.
Sequence* Scheduler::spare(const Sequence& for_whom) const {
  if (Sequence* s = youngest_lagging(); s != nullptr) return s;
  if (parked_.empty()) return nullptr;
  if (Sequence* s = youngest_left_alone(); s != nullptr) return s;
  if (parked_.back()->order > for_whom.order || running_.empty()) return parked_.back();
  return idle_sibling(for_whom);
}

Sequence* Scheduler::youngest_lagging() const {
  const auto last = std::find_if(running_.rbegin(), running_.rend(), [](const Sequence* s) { return s->paused; });
  return last == running_.rend() ? nullptr : *last;
}

void Scheduler::preempt(Sequence& s) {
  const bool runs = s.state == State::kRunning;
  if (runs) erase_from(running_, s);
  leave_parked(s);
  release_blocks(s);
  s.rows = 0;
  ++s.preemptions;
  ++counters_.preemptions;
  if (runs) queue(s);
}

// The last blocks first: so those that begin a prefix are the last to be evicted.
void Scheduler::release_blocks(Sequence& s) {
  while (!s.blocks.empty()) {
    pool_.release(s.blocks.back());
    s.blocks.pop_back();
  }
  s.computed = s.published = 0;
  s.content = 0;
  s.passed_over = false;
}

void Scheduler::computed() {
  for (const Piece& piece : plan_.pieces) {
    Sequence& s = *piece.sequence;
    s.computed += piece.count;
    const std::int32_t* tokens = s.tokens.data() + s.window_start;
    const std::size_t sure = std::min(s.computed, s.window() - s.guesses);
    while (s.share && (s.published + 1) * kBlockTokens <= sure) {
      BlockId& block = s.blocks[s.published];
      const BlockPool::Found found = pool_.publish(block, s.content, s.space, tokens + s.published * kBlockTokens);
      if (found.block != block) {  // another sequence was first: the same content has the same bits
        pool_.share(found.block);
        pool_.release(block);
        block = found.block;
      }
      s.content = found.content;
      ++s.published;
    }
  }
  plan_.pieces.clear();
}

void Scheduler::withdraw(const Sequence& s) {
  std::erase_if(plan_.pieces, [&](const Piece& piece) { return piece.sequence == &s; });
}

Finish Scheduler::append(Sequence& s, std::int32_t token, bool stops) {
  s.tokens.push_back(token);
  ++s.generated;
  if (stops) return Finish::kStop;
  if (s.generated >= s.max_new_tokens) return Finish::kLength;
  if (s.window() <= limits_.positions) return Finish::kNone;
  if (!s.slide) return Finish::kContext;
  // Positions are absolute, so that the half that stays is encoded anew from position 0.
  s.window_start = s.tokens.size() - half();
  ++s.slides;
  if (s.state == State::kRunning) {
    release_blocks(s);
    erase_from(running_, s);
    queue(s);
  }
  return Finish::kNone;
}

bool Scheduler::fork(const Sequence& first, Sequence& held) {
  if (running_.size() >= limits_.max_running) {
    enqueue(held);
    return false;
  }
  --held_;
  for (const BlockId block : first.blocks) {
    pool_.share(block);
    held.blocks.push_back(block);
  }
  held.computed = first.computed;
  held.published = first.published;
  held.content = first.content;
  held.state = State::kRunning;
  held.started = true;
  insert_by_age(running_, held);
  return true;
}

void Scheduler::drop(Sequence& s) {
  if (s.state == State::kFinished) return;
  --(s.branch ? branches_ : submitted_);
  if (s.state == State::kHeld) --held_;
  leave_parked(s);
  if (s.state == State::kWaiting) erase_from(waiting_, s);
  if (s.state == State::kRunning) erase_from(running_, s);
  release_blocks(s);
  s.state = State::kFinished;
}

void Scheduler::take_scratch(std::size_t count, std::vector<BlockId>& out) {
  if (count > limits_.blocks) {
    throw Error(ErrorKind::kInvalidRequest, "the tokens do not fit the cache",
                std::to_string(count) + " blocks of " + std::to_string(kBlockTokens) + " positions",
                "at most " + std::to_string(limits_.blocks), "a larger cache_bytes");
  }
  out.reserve(count);
  while (pool_.available() < count && !(running_.empty() && parked_.empty())) {
    Sequence* other = youngest_lagging();
    if (other == nullptr) other = parked_.empty() ? running_.back() : parked_.back();
    preempt(*other);
  }
  while (out.size() < count) out.push_back(pool_.take());
}

void Scheduler::release_scratch(std::vector<BlockId>& blocks) {
  for (const BlockId block : blocks) pool_.release(block);
  blocks.clear();
}

void Scheduler::check() const {
  pool_.check();
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
  };
  std::vector<std::uint32_t> references(pool_.size(), 0);
  for (const Sequence* s : running_) {
    require(s->state == State::kRunning, "a sequence in the batch does not run");
    require(s->blocks.size() >= blocks_for(s->computed), "computed positions have no block");
    require(s->computed < s->window(), "a running sequence has nothing to compute");
    require(s->published * kBlockTokens <= s->computed, "a block was published before it was full");
    for (const BlockId b : s->blocks) ++references[b];
  }
  for (const Sequence* s : waiting_) {
    require(s->state == State::kWaiting, "a sequence in the queue does not wait");
    require(s->branch || (s->blocks.empty() && s->computed == 0), "a waiting sequence has blocks");
  }
  for (const Sequence* s : parked_) {
    require(s->branch && !s->blocks.empty(), "a parked sequence is no branch, or has no blocks");
    require(s->state == State::kIdle ? s->pending() == 0 : s->state == State::kWaiting, "a parked branch runs");
    require(s->blocks.size() == blocks_for(s->computed), "a parked branch has blocks of nothing");
    for (const BlockId b : s->blocks) ++references[b];
  }
  require(std::is_sorted(waiting_.begin(), waiting_.end(), by_age), "the queue is out of order");
  require(std::is_sorted(parked_.begin(), parked_.end(), by_age), "the parked branches are out of order");
  require(std::is_sorted(running_.begin(), running_.end(), by_age), "the batch is out of order");
  require(running_.size() <= limits_.max_running, "too many sequences run");
  for (std::size_t b = 0; b < pool_.size(); ++b) {
    require(pool_.references(static_cast<BlockId>(b)) == references[b], "a block's references are not its users");
  }
}

}  // namespace gpt2::scheduler
