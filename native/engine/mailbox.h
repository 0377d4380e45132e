// A caller's side of the engine: it submits requests, and the tokens of all of them arrive here.
//
//   Mailbox box(engine);
//   const auto id = box.submit(request);
//   std::vector<Event> events;
//   while (box.wait(events, {})) for (const Event& e : events) ...
//
// The thread that waits runs the engine's steps if no other does (leader and followers), so that a single caller pays
// no switch of threads, and no thread runs when nobody waits. A mailbox is used by one waiting thread at a time;
// submit(), cancel() and pause() may come from any. It must be gone before its engine.
//
// A caller that does not read is not waited for: a sequence with `unread` tokens that nobody took is not scheduled
// until they are taken.
//
// Where decoding is more than one token after the other, the caller drives: begin() a request, open() branches of text
// in it, extend() them and wait for the answers, in the same steps as everybody's tokens; fork(), rewind() and drop()
// them in between (branches.cc). A branch is used by one thread at a time.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/forward.h"
#include "sampling/sampler.h"

namespace gpt2 {

class Engine;
struct Job;

// An adapter of an engine's model, made by Engine::adapter(). It lives as long as somebody has it: requests keep
// theirs.
using AdapterPtr = std::shared_ptr<const model::Adapter>;

struct Request {
  std::vector<std::int32_t> ids;  // the prompt, at least one
  sampling::Params params;        // stop_token_ids end the text
  std::size_t max_new_tokens = 1;
  std::uint32_t alternatives = 1;  // continuations of the prompt, numbered from 0
  bool slide = false;              // when the window is full: encode its second half anew and go on
  bool share_prefix = true;        // use and fill the prefix cache
  std::string salt;                // prefixes are shared with requests of the same salt and adapter alone
  AdapterPtr adapter;              // what the model is changed by, for this request; or null
  double timeout = 0;              // seconds that it may wait in the queue; 0: any time
  std::size_t unread = 256;
};

// A request whose tokens the caller chooses, or has chosen, one extension after the other.
struct Driven {
  bool slide = false;
  bool share_prefix = true;
  std::string salt;
  AdapterPtr adapter;
  double timeout = 0;  // as in Request, until its first extension runs
};

enum class AskKind { kChoices, kCandidates, kLogits };

// What is wanted of the last positions of a branch once its new tokens are computed.
struct Ask {
  AskKind kind = AskKind::kChoices;
  std::size_t rows = 1;             // of logits, hidden and layers: the last positions; at most the window has
  std::size_t drafts = 0;           // choices: the last new tokens are guesses, kept as far as they are what is chosen
  std::size_t count = 0;            // candidates: at most this many
  bool normalise = false;           // candidates: log-softmax before the rules
  bool hidden = false;              // LN_f of the rows
  std::vector<int> layers;          // what the head reads in the residual stream after these blocks, without LN_f
  std::vector<std::uint32_t> mask;  // of allowed tokens, bit t % 32 of word t / 32; empty: all. Of the first choice
};

struct Reply {
  std::size_t rows = 0;          // R
  std::size_t asked_layers = 0;  // how many
  bool asked_candidates = false;
  std::size_t length = 0;  // of the branch now
  std::vector<sampling::Choice> choices;
  std::vector<sampling::TokenLogprob> candidates;   // best first
  std::unique_ptr<float[]> logits, hidden, layers;  // [R, V], [R, C], [layers, R, V]
};

enum class Ended { kNo, kLength, kStop, kContext, kError };

// One token of one alternative, or the answer to an extension of one branch, or (kError) the reason why there will be
// none.
struct Event {
  std::uint64_t request = 0;
  std::uint32_t alternative = 0;
  std::uint32_t slides = 0;  // of the window, before this token was chosen
  sampling::Choice choice;
  Ended ended = Ended::kNo;
  std::exception_ptr error;
  bool branch = false;           // it is of one, whose number is `alternative`
  std::unique_ptr<Reply> reply;  // its answer
};

class Mailbox {
 public:
  explicit Mailbox(Engine& engine);
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // Returns the request's number. Throws kInvalidRequest, kOverloaded, std::bad_alloc; then nothing has changed.
  std::uint64_t submit(Request request);

  // Waits until there are events and moves them to `out`; false when none are left to come. `poll` is called now and
  // then and may throw to give up waiting; the requests stay.
  bool wait(std::vector<Event>& out, const model::Poll& poll);

  // branches.cc. Return numbers; throw kInvalidRequest (also for numbers that are not there), kOverloaded and
  // std::bad_alloc, and then nothing has changed.
  std::uint64_t begin(const Driven& driven);
  // An empty branch. Draws depend on (params.seed, alternative, tokens after the first `prompt_length`, 0: those of the
  // first extension).
  std::uint32_t open(std::uint64_t request, const sampling::Params& params, std::uint32_t alternative,
                     std::size_t prompt_length);
  // With `alternative` it draws as that one does.
  std::uint32_t fork(std::uint64_t request, std::uint32_t branch, std::optional<std::uint32_t> alternative = {});
  void rewind(std::uint64_t request, std::uint32_t branch, std::size_t length);
  void drop(std::uint64_t request, std::uint32_t branch);
  // False when the window is full and does not slide: then nothing has changed.
  bool extend(std::uint64_t request, std::uint32_t branch, const std::int32_t* ids, std::size_t count, Ask ask);
  // As the engine chooses, from logits [V] that the caller made; mask may be null.
  sampling::Choice choose(std::uint64_t request, std::uint32_t branch, const float* logits, const std::uint32_t* mask);

  // Scores [V] after the branch's rules, to out [V]: sampling::Sampler::process.
  void rules(std::uint64_t request, std::uint32_t branch, const float* logits, bool normalise, bool draw_rules,
             float* out);

  // Ends what is left of a request, or of one alternative. Its blocks are free within the step that runs; events that
  // have arrived stay. Unknown numbers are those of requests that have ended.
  void cancel(std::uint64_t request);
  void cancel(std::uint64_t request, std::uint32_t alternative);
  void close();  // all of them

  // Not to be scheduled, or to be scheduled again.
  void pause(std::uint64_t request, bool paused);

  const model::Config& config() const;
  std::size_t live() const;  // alternatives that have not ended, and branches that have not been answered

 private:
  friend class Engine;
  using Jobs = std::map<std::pair<std::uint64_t, std::uint32_t>, std::unique_ptr<Job>>;

  bool take_events(std::vector<Event>& out);
  bool lead(std::unique_lock<std::mutex>& lock, const model::Poll& poll);
  void sleep(std::unique_lock<std::mutex>& lock);
  void cancel(Jobs::iterator from, Jobs::iterator to);
  void wake();

  struct DrivenRequest {
    Driven options;
    std::shared_ptr<const std::string> space;
    std::uint64_t order = 0;  // for the scheduler
    std::int64_t deadline = 0;
    std::uint32_t next_branch = 0;
    bool asleep = false;  // paused by its caller
  };
  DrivenRequest& driven(std::uint64_t request);
  Job& idle_branch(std::uint64_t request, std::uint32_t branch);
  template <typename Use>
  void with_branch(std::uint64_t request, std::uint32_t branch, const Use& use);
  std::uint32_t add_branch(std::uint64_t request, std::unique_ptr<Job> job, const Job* from);

  Engine& engine_;
  // All below: under the engine's mutex.
  Jobs jobs_;
  std::map<std::uint64_t, DrivenRequest> driven_;
  std::unique_ptr<sampling::Sampler> sampler_;  // of choose() and rules(), when nobody uses it
  std::size_t expected_ = 0;                    // events at least that are still to come: jobs but idle branches
  std::vector<Event> events_;
  std::condition_variable arrived_;
  Mailbox *next_waiter_ = nullptr, *previous_waiter_ = nullptr;
  bool waiting_ = false, called_ = false;
  bool lost_event_ = false;  // there was no memory for it
};

}  // namespace gpt2
