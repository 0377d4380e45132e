// One step of the engine: plan, compute, choose, tell. See engine.h.
#include <algorithm>
#include <chrono>
#include <utility>

#include "base/errors.h"
#include "engine/engine.h"
#include "engine/job.h"

namespace gpt2 {

using scheduler::Finish;
using scheduler::Piece;
using scheduler::Sequence;

namespace {

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Job& job_of(Sequence& s) { return static_cast<Job&>(s); }

Ended ended(Finish finish) {
  switch (finish) {
    case Finish::kNone: return Ended::kNo;
    case Finish::kLength: return Ended::kLength;
    case Finish::kStop: return Ended::kStop;
    case Finish::kContext: return Ended::kContext;
  }
  return Ended::kError;
}

}  // namespace

bool Engine::step(const Poll& poll) {
  const std::lock_guard<FairLock> turn(turn_);
  struct CleanUp {  // also when the step is given up
    Engine& engine;
    ~CleanUp() { engine.clean_up(); }
  } clean_up{*this};
  if (!prepare()) return false;
  if (slices_.empty()) return true;
  model_.forward(
      slices_,
      layers_wanted_ ? model::Capture([this](std::size_t index, const float*) { read_layers(index); }) : nullptr, poll);
  read_hidden();
  if (!rows_.empty()) {
    model_.logits(rows_, logits_.data());
    choose();
  }
  finish_step();
  return true;
}

// Asks the scheduler, and makes ready what it wants computed. False when there is nothing to do.
bool Engine::prepare() {
  const std::lock_guard<std::mutex> lock(mutex_);
  slices_.clear();
  rows_.clear();
  samples_.clear();
  extensions_.clear();
  layers_wanted_ = false;
  bool anything = false;
  for (;;) {
    plan_ = &scheduler_.plan(now());
    if (plan_->expired.empty()) break;
    end_expired();
    anything = true;
  }
  anything = anything || !plan_->pieces.empty();
  back_with_memory();
  in_step_.reserve(plan_->pieces.size());
  for (const Piece& piece : plan_->pieces) {
    in_step_.push_back(&job_of(*piece.sequence));
    in_step_.back()->in_step = true;
  }
  list_samples();
  return anything;
}

// Copies blocks and finds the memory of all blocks of the step. A sequence whose block cannot be allocated ends.
void Engine::back_with_memory() {
  const auto give_up = [this](Sequence& s) {
    scheduler_.withdraw(s);
    fail(job_of(s), std::current_exception());
  };
  for (const scheduler::Copy& copy : plan_->copies) {
    try {
      memory_.copy(copy.from, copy.to);
    } catch (const std::bad_alloc&) {
      const auto owns = [&](const Piece& p) {
        return std::find(p.sequence->blocks.begin(), p.sequence->blocks.end(), copy.to) != p.sequence->blocks.end();
      };
      const auto piece = std::find_if(plan_->pieces.begin(), plan_->pieces.end(), owns);
      if (piece != plan_->pieces.end()) give_up(*piece->sequence);
    }
  }
  std::size_t at = 0;
  for (std::size_t i = 0; i < plan_->pieces.size();) {
    const Piece& piece = plan_->pieces[i];
    std::byte** const first = pointers_.data() + at;
    try {
      for (const scheduler::BlockId b : piece.sequence->blocks) pointers_[at++] = memory_.get(b);
      slices_.push_back({first, piece.start, piece.sequence->tokens.data() + piece.sequence->window_start + piece.start,
                         piece.count, job_of(*piece.sequence).adapter.get()});
      ++i;
    } catch (const std::bad_alloc&) {
      at = static_cast<std::size_t>(first - pointers_.data());
      give_up(*piece.sequence);
    }
  }
}

// Which rows need logits, and which tokens are chosen from each: alternatives of a prompt share its last row.
void Engine::list_samples() {
  std::size_t row = 0;
  for (const Piece& piece : plan_->pieces) {
    row += piece.count;
    Job& job = job_of(*piece.sequence);
    if (job.branch) list_extension(job, piece, row - piece.count);
    if (job.branch || !piece.sample) continue;
    rows_.push_back(row - 1);
    samples_.push_back({&job, rows_.size() - 1});
    for (Job* held : job.held) {
      in_step_.push_back(held);
      held->in_step = true;
      samples_.push_back({held, rows_.size() - 1});
    }
  }
  if (choices_.size() < samples_.size()) choices_.resize(samples_.size());
  if (problems_.size() < samples_.size()) problems_.resize(samples_.size());
  if (logits_.size() < rows_.size() * config().vocab) logits_.resize(rows_.size() * config().vocab);
}

void Engine::choose() {
  model_.pool().run(samples_.size(), [this](std::size_t i, int thread) {
    problems_[i] = nullptr;
    try {
      Job& job = *samples_[i].job;
      sampling::Sampler& sampler = samplers_[static_cast<std::size_t>(thread)];
      if (job.branch) return answer(samples_[i], sampler);
      const sampling::Place place{job.tokens.data(), job.tokens.size(), job.generated, job.draw};
      samples_[i].state = job.sampling;  // becomes the job's when the step counts
      choices_[i] =
          sampler.next(logits_.data() + samples_[i].row * config().vocab, job.params, place, samples_[i].state);
    } catch (...) {
      problems_[i] = std::current_exception();
    }
  });
}

// Reports to the scheduler and sends the tokens out. Room for all of them is made first, so that the step either counts
// for everybody or for nobody.
void Engine::finish_step() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t most_events = samples_.size() + extensions_.size();
  const auto make_room = [&](const Job& job) {
    if (job.box == nullptr) return;
    std::vector<Event>& events = job.box->events_;
    const std::size_t most = events.size() + most_events;
    if (events.capacity() < most) events.reserve(2 * most);
  };
  for (const Sample& sample : samples_) {
    Job& job = *sample.job;
    if (!job.branch && job.tokens.size() == job.tokens.capacity()) job.tokens.reserve(2 * job.tokens.size());
    make_room(job);
  }
  for (const Extension& extension : extensions_) make_room(*extension.job);
  ++steps_;
  for (const Piece& piece : plan_->pieces) computed_ += piece.count;
  scheduler_.computed();
  for (const Sample& sample : samples_) {
    Job& job = *sample.job;
    if (job.first == nullptr) continue;
    scheduler_.fork(*job.first, job);
    job.first->held.clear();
    job.first = nullptr;
  }
  for (std::size_t i = 0; i < samples_.size(); ++i) {
    if (!samples_[i].job->cancelled && !samples_[i].job->branch) finish_sample(i);
  }
  finish_extensions();
}

void Engine::finish_sample(std::size_t i) {
  Job& job = *samples_[i].job;
  if (problems_[i]) return fail(job, problems_[i]);
  sampling::Choice& choice = choices_[i];
  job.sampling = samples_[i].state;
  const std::vector<std::int32_t>& stops = job.params.stop_token_ids;
  Event event;
  event.slides = job.slides;
  const bool stop = std::find(stops.begin(), stops.end(), choice.token) != stops.end();
  const Finish finish = scheduler_.append(job, choice.token, stop);
  ++chosen_;
  event.ended = ended(finish);
  event.choice = std::move(choice);
  deliver(job, std::move(event));
  if (finish != Finish::kNone) end(job);
}

void Engine::deliver(Job& job, Event event) {
  event.request = job.request;
  event.alternative = job.alternative;
  event.branch = job.branch;
  try {
    job.box->events_.push_back(std::move(event));
  } catch (const std::bad_alloc&) {
    job.box->lost_event_ = true;  // its wait() will throw
  }
  if (++job.unread >= job.most_unread) scheduler_.pause(job, true);
  job.box->arrived_.notify_one();
}

void Engine::fail(Job& job, const std::exception_ptr& error) {
  ++errors_;
  Event event;
  event.slides = job.slides;
  event.ended = Ended::kError;
  event.error = error;
  deliver(job, std::move(event));
  end(job);
}

void Engine::end_expired() {
  for (Sequence* s : plan_->expired) {
    fail(job_of(*s), std::make_exception_ptr(Error(ErrorKind::kExpired, "the request waited longer than its timeout",
                                                   {}, {}, "a longer timeout, or fewer requests at a time")));
  }
}

// The job has ended; clean_up() deletes it.
void Engine::end(Job& job) {
  ++ended_;
  --job.box->expected_;
  forget(job);
  Mailbox::Jobs& jobs = job.box->jobs_;
  const auto at = jobs.find({job.request, job.alternative});
  job.box = nullptr;
  job.next_orphan = orphans_;
  orphans_ = at->second.release();
  jobs.erase(at);
}

// Takes a job out of the scheduler, with its blocks; alternatives that waited for it go on without.
void Engine::forget(Job& job) {
  if (job.first != nullptr) std::erase(job.first->held, &job);
  for (Job* held : job.held) {
    held->first = nullptr;
    scheduler_.enqueue(*held);
  }
  job.held.clear();
  scheduler_.drop(job);
}

// After a step: those that were cancelled while it ran leave, with their blocks.
void Engine::clean_up() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Job* job : in_step_) job->in_step = false;
  in_step_.clear();
  while (orphans_ != nullptr) {
    const std::unique_ptr<Job> job(std::exchange(orphans_, orphans_->next_orphan));
    if (job->state != scheduler::State::kFinished) forget(*job);
  }
}

}  // namespace gpt2
