#include "engine/mailbox.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "base/errors.h"
#include "engine/engine.h"
#include "engine/job.h"

namespace gpt2 {
namespace {

// How long a thread sleeps before it asks whether it was interrupted.
constexpr std::chrono::milliseconds kNap{50};

std::unique_ptr<Job> make_job(const Request& r, std::uint32_t alternative, const Config& config) {
  auto job = std::make_unique<Job>();
  job->tokens.reserve(r.ids.size() + std::min(r.max_new_tokens, config.positions) + 1);
  job->tokens = r.ids;
  job->max_new_tokens = r.max_new_tokens;
  job->slide = r.slide;
  job->alternative = job->draw = alternative;
  job->params = r.params;
  job->adapter = r.adapter;
  job->kin = r.adapter == nullptr ? 0 : r.adapter->number;
  job->most_unread = r.unread;
  return job;
}

}  // namespace

std::int64_t deadline_after(double seconds) {
  if (seconds <= 0) return scheduler::kNoDeadline;
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  return seconds > 1e9 ? scheduler::kNoDeadline : ns + static_cast<std::int64_t>(seconds * 1e9);
}

Mailbox::Mailbox(Engine& engine) : engine_(engine) {}

Mailbox::~Mailbox() {
  // A fork has nobody to tell, and the mutex may be held by a thread that it does not have.
  if (!engine_.forked()) close();
}

std::uint64_t Mailbox::submit(Request request) {
  engine_.check_process();
  const Config& config = engine_.config();
  const auto refuse = [](const char* what, const std::string& got, const char* expected) {
    throw Error(ErrorKind::kInvalidRequest, what, got, expected);
  };
  check_tokens(request.ids.data(), request.ids.size(), config);
  check_window(request.ids.size(), config);
  sampling::check(request.params, static_cast<int>(config.vocab));
  if (request.max_new_tokens == 0) refuse("max_new_tokens", "0", "at least 1");
  if (request.alternatives == 0) refuse("alternatives", "0", "at least 1");
  if (request.unread == 0) refuse("unread", "0", "at least 1");
  if (!(request.timeout >= 0)) refuse("timeout", std::to_string(request.timeout), "0 or more seconds");

  {  // before there is a job for each: thousands of millions of them would take all memory
    const std::lock_guard<std::mutex> lock(engine_.mutex_);
    engine_.scheduler_.require_place(request.alternatives);
  }
  const scheduler::Space space = engine_.space_of(request.adapter, request.salt);
  const std::int64_t deadline = deadline_after(request.timeout);
  std::vector<std::unique_ptr<Job>> jobs;
  std::vector<scheduler::Sequence*> sequences;
  for (std::uint32_t k = 0; k < request.alternatives; ++k) {
    jobs.push_back(make_job(request, k, config));
    Job& job = *jobs.back();
    job.box = this;
    job.space = space;
    job.deadline = deadline;
    job.share = request.share_prefix && engine_.prefix_cache_;
    if (k > 0) {
      job.first = jobs.front().get();
      jobs.front()->held.push_back(&job);
    }
    sequences.push_back(&job);
  }

  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const std::uint64_t id = engine_.next_request_++;
  Jobs added;  // nodes are made before anything is changed
  for (std::uint32_t k = 0; k < request.alternatives; ++k) {
    jobs[k]->request = id;
    Job* job = jobs[k].get();
    added.emplace(std::pair(id, k), nullptr).first->second.reset(job);
    (void)jobs[k].release();
  }
  engine_.scheduler_.submit(sequences.data(), sequences.size());
  jobs_.merge(added);
  ++engine_.requests_;
  expected_ += request.alternatives;
  wake();
  return id;
}

// Whoever waits here has something to do.
void Mailbox::wake() {
  if (!waiting_) return;
  called_ = true;
  arrived_.notify_one();
}

// Takes what has arrived, and lets those go on that waited for it to be taken.
bool Mailbox::take_events(std::vector<Event>& out) {
  if (lost_event_) {
    lost_event_ = false;
    throw std::bad_alloc();
  }
  if (events_.empty()) return false;
  out.reserve(events_.size());
  std::move(events_.begin(), events_.end(), std::back_inserter(out));
  events_.clear();
  for (auto& [key, job] : jobs_) {
    job->unread = 0;
    engine_.scheduler_.pause(*job, job->asleep);
  }
  return true;
}

bool Mailbox::wait(std::vector<Event>& out, const model::Poll& poll) {
  engine_.check_process();
  out.clear();
  std::unique_lock<std::mutex> lock(engine_.mutex_);
  if (waiting_) {
    throw Error(ErrorKind::kInvalidRequest, "a mailbox has one reader", "a second thread that waits", "one at a time");
  }
  struct Leave {  // whoever leaves sees to it that somebody goes on with the steps
    Mailbox& box;
    std::unique_lock<std::mutex>& lock;
    ~Leave() {
      if (!lock.owns_lock()) lock.lock();
      box.waiting_ = false;
      box.engine_.call_next_leader();
    }
  } leave{*this, lock};
  waiting_ = true;
  auto asked = std::chrono::steady_clock::now();
  for (;;) {
    if (take_events(out)) return true;
    if (expected_ == 0) return false;
    const bool led = !engine_.leading_ && lead(lock, poll);
    if (!led) sleep(lock);
    const auto now = std::chrono::steady_clock::now();
    if (poll && events_.empty() && now - asked >= kNap) {
      asked = now;
      lock.unlock();
      poll();
      lock.lock();
    }
  }
}

// Runs one step for all. Returns whether there was anything to do.
bool Mailbox::lead(std::unique_lock<std::mutex>& lock, const model::Poll& poll) {
  engine_.leading_ = true;
  lock.unlock();
  struct Done {
    Engine& engine;
    std::unique_lock<std::mutex>& lock;
    ~Done() {
      lock.lock();
      engine.leading_ = false;
    }
  } done{engine_, lock};
  return engine_.step(poll);
}

void Mailbox::sleep(std::unique_lock<std::mutex>& lock) {
  engine_.link(*this);
  called_ = false;
  arrived_.wait_for(lock, kNap, [this] { return called_ || !events_.empty() || expected_ == 0 || lost_event_; });
  engine_.unlink(*this);
}

void Mailbox::cancel(Jobs::iterator from, Jobs::iterator to) {
  while (from != to) {
    std::unique_ptr<Job> job = std::move(from->second);
    from = jobs_.erase(from);
    if (!job->idle()) --expected_;
    engine_.cancel_job(std::move(job));
  }
  if (expected_ == 0) arrived_.notify_one();
}

void Mailbox::cancel(std::uint64_t request) {
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  cancel(jobs_.lower_bound({request, 0}), jobs_.lower_bound({request + 1, 0}));
  if (driven_.erase(request) > 0) engine_.scheduler_.close_request();
}

void Mailbox::cancel(std::uint64_t request, std::uint32_t alternative) {
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const auto at = jobs_.find({request, alternative});
  if (at != jobs_.end()) cancel(at, std::next(at));
}

void Mailbox::close() {
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  cancel(jobs_.begin(), jobs_.end());
  for (std::size_t i = 0; i < driven_.size(); ++i) engine_.scheduler_.close_request();
  driven_.clear();
  events_.clear();
}

void Mailbox::pause(std::uint64_t request, bool paused) {
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const auto end = jobs_.lower_bound({request + 1, 0});
  for (auto at = jobs_.lower_bound({request, 0}); at != end; ++at) {
    Job& job = *at->second;
    job.asleep = paused;
    engine_.scheduler_.pause(job, paused || job.unread >= job.most_unread);
  }
  if (const auto at = driven_.find(request); at != driven_.end()) at->second.asleep = paused;
  if (!paused) wake();
}

const Config& Mailbox::config() const { return engine_.config(); }

std::size_t Mailbox::live() const {
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  return expected_;
}

void Engine::link(Mailbox& box) {
  box.previous_waiter_ = nullptr;
  box.next_waiter_ = waiters_;
  if (waiters_ != nullptr) waiters_->previous_waiter_ = &box;
  waiters_ = &box;
}

void Engine::unlink(Mailbox& box) {
  (box.previous_waiter_ == nullptr ? waiters_ : box.previous_waiter_->next_waiter_) = box.next_waiter_;
  if (box.next_waiter_ != nullptr) box.next_waiter_->previous_waiter_ = box.previous_waiter_;
}

// Wakes one of those that still wait for tokens, unless somebody leads.
void Engine::call_next_leader() {
  if (leading_) return;
  for (Mailbox* box = waiters_; box != nullptr; box = box->next_waiter_) {
    if (!box->events_.empty()) continue;
    box->called_ = true;
    box->arrived_.notify_one();
    return;
  }
}

void Engine::cancel_job(std::unique_ptr<Job> job) {
  if (!job->branch) ++cancelled_;
  job->box = nullptr;
  if (job->borrowed) {  // whoever uses it deletes it
    job->cancelled = true;
    (void)job.release();
    return;
  }
  if (job->in_step) {
    job->cancelled = true;
    job->next_orphan = orphans_;
    orphans_ = job.release();
    return;
  }
  forget(*job);
}

}  // namespace gpt2
