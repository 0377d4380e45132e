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
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "model/forward.h"
#include "sampling/sampler.h"

namespace gpt2 {

class Engine;
struct Job;

struct Request {
  std::vector<std::int32_t> ids;  // the prompt, at least one
  sampling::Params params;        // stop_token_ids end the text
  std::size_t max_new_tokens = 1;
  std::uint32_t alternatives = 1;  // continuations of the prompt, numbered from 0
  bool slide = false;              // when the window is full: encode its second half anew and go on
  bool share_prefix = true;        // use and fill the prefix cache
  std::string salt;                // prefixes are shared with requests of the same salt alone
  double timeout = 0;              // seconds that it may wait in the queue; 0: any time
  std::size_t unread = 256;
};

enum class Ended { kNo, kLength, kStop, kContext, kError };

// One token of one alternative, or (kError) the reason why there will be none.
struct Event {
  std::uint64_t request = 0;
  std::uint32_t alternative = 0;
  std::uint32_t slides = 0;  // of the window, before this token was chosen
  sampling::Choice choice;
  Ended ended = Ended::kNo;
  std::exception_ptr error;
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

  // Ends what is left of a request, or of one alternative. Its blocks are free within the step that runs; events that
  // have arrived stay. Unknown numbers are those of requests that have ended.
  void cancel(std::uint64_t request);
  void cancel(std::uint64_t request, std::uint32_t alternative);
  void close();  // all of them

  // Not to be scheduled, or to be scheduled again.
  void pause(std::uint64_t request, bool paused);

  std::size_t live() const;  // alternatives that have not ended

 private:
  friend class Engine;
  using Jobs = std::map<std::pair<std::uint64_t, std::uint32_t>, std::unique_ptr<Job>>;

  bool take_events(std::vector<Event>& out);
  bool lead(std::unique_lock<std::mutex>& lock, const model::Poll& poll);
  void sleep(std::unique_lock<std::mutex>& lock);
  void cancel(Jobs::iterator from, Jobs::iterator to);

  Engine& engine_;
  // All below: under the engine's mutex.
  Jobs jobs_;
  std::vector<Event> events_;
  std::condition_variable arrived_;
  Mailbox *next_waiter_ = nullptr, *previous_waiter_ = nullptr;
  bool waiting_ = false, called_ = false;
  bool lost_event_ = false;  // there was no memory for it
};

}  // namespace gpt2
