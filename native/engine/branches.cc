// Driven requests: the caller's calls, and what a step does for the branches that are in it. See mailbox.h.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "engine/engine.h"
#include "engine/job.h"

namespace gpt2 {
namespace {

constexpr std::size_t kNoSample = SIZE_MAX;

[[noreturn]] void refuse(const char* what, const std::string& got, const std::string& expected) {
  throw Error(ErrorKind::kInvalidRequest, what, got, expected);
}

std::string number_of(std::uint64_t request, std::uint32_t branch) {
  return std::to_string(branch) + " of request " + std::to_string(request);
}

void check_ask(const Ask& ask, std::size_t tokens, const Config& config) {
  if (ask.rows == 0) refuse("rows", "0", "at least 1");
  if (ask.drafts > 0 && ask.kind != AskKind::kChoices) refuse("drafts", "another kind", "choices");
  if (ask.drafts >= tokens) {
    refuse("drafts", std::to_string(ask.drafts) + " of " + std::to_string(tokens) + " tokens", "fewer than the tokens");
  }
  if (ask.kind == AskKind::kCandidates && ask.count == 0) refuse("count", "0", "at least 1");
  for (const int layer : ask.layers) {
    if (layer >= 0 && static_cast<std::size_t>(layer) <= config.layers) continue;
    refuse("layers", std::to_string(layer), "0 to " + std::to_string(config.layers));
  }
  const std::size_t words = (config.vocab + 31) / 32;
  if (!ask.mask.empty() && ask.mask.size() != words) {
    refuse("mask", std::to_string(ask.mask.size()) + " words", std::to_string(words) + ", one bit for each token");
  }
}

// Room for all that is asked for, so that nothing is allocated when it is there. `most` rows at most.
std::unique_ptr<Reply> room_for(const Ask& ask, std::size_t most, const Config& config) {
  auto reply = std::make_unique<Reply>();
  reply->rows = std::min(ask.rows, most);
  reply->asked_layers = ask.layers.size();
  reply->asked_candidates = ask.kind == AskKind::kCandidates;
  const auto floats = [](std::size_t n) { return std::make_unique_for_overwrite<float[]>(n); };
  if (ask.kind == AskKind::kChoices) reply->choices.reserve(ask.drafts + 1);
  if (ask.kind == AskKind::kLogits) reply->logits = floats(reply->rows * config.vocab);
  if (ask.hidden) reply->hidden = floats(reply->rows * config.embd);
  if (!ask.layers.empty()) reply->layers = floats(ask.layers.size() * reply->rows * config.vocab);
  return reply;
}

sampling::Place place_of(const Job& job, std::size_t length, const std::uint32_t* mask) {
  const std::size_t generated = length - std::min(length, job.prompt_length);
  return {job.tokens.data(), length, generated, job.draw, mask};
}

}  // namespace

// The caller's side.

std::uint64_t Mailbox::begin(const Driven& options) {
  engine_.check_process();
  if (!(options.timeout >= 0)) refuse("timeout", std::to_string(options.timeout), "0 or more seconds");
  std::map<std::uint64_t, DrivenRequest> added;
  DrivenRequest& d = added[0];
  d.options = options;
  d.space = engine_.space_of(options.adapter, options.salt);
  d.deadline = deadline_after(options.timeout);
  auto node = added.extract(added.begin());
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  d.order = engine_.scheduler_.open_request();
  node.key() = engine_.next_request_++;
  ++engine_.requests_;
  return driven_.insert(std::move(node)).position->first;
}

Mailbox::DrivenRequest& Mailbox::driven(std::uint64_t request) {
  const auto at = driven_.find(request);
  if (at == driven_.end()) refuse("request", std::to_string(request), "one that was begun and not cancelled");
  return at->second;
}

Job& Mailbox::idle_branch(std::uint64_t request, std::uint32_t branch) {
  const auto at = jobs_.find({request, branch});
  if (at == jobs_.end() || !at->second->branch) {
    refuse("branch", number_of(request, branch), "one that was opened and not dropped");
  }
  if (!at->second->idle()) refuse("branch", number_of(request, branch) + ", not answered yet", "one that is idle");
  return *at->second;
}

std::uint32_t Mailbox::add_branch(std::uint64_t request, std::unique_ptr<Job> job, const Job* from) {
  DrivenRequest& d = driven(request);
  const std::uint32_t number = d.next_branch;
  job->box = this;
  job->request = request;
  job->alternative = number;
  job->order = d.order;
  job->space = d.space;
  job->adapter = d.options.adapter;
  job->kin = job->adapter == nullptr ? 0 : job->adapter->number;
  job->slide = d.options.slide;
  job->share = d.options.share_prefix && engine_.prefix_cache_;
  job->most_unread = SIZE_MAX;
  job->asleep = job->paused = d.asleep;
  const auto at = jobs_.try_emplace({request, number}).first;
  try {
    if (from == nullptr) {
      engine_.scheduler_.open(*job);
    } else {
      engine_.scheduler_.branch(*from, *job);
    }
  } catch (...) {
    jobs_.erase(at);
    throw;
  }
  at->second = std::move(job);
  ++d.next_branch;
  return number;
}

std::uint32_t Mailbox::open(std::uint64_t request, const sampling::Params& params, std::uint32_t alternative,
                            std::size_t prompt_length) {
  engine_.check_process();
  sampling::check(params, static_cast<int>(engine_.config().vocab));
  auto job = std::make_unique<Job>();
  job->params = params;
  job->draw = alternative;
  job->prompt_length = prompt_length;
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const auto begun = [&] {  // the request's time in the queue is over
    const auto end = jobs_.lower_bound({request + 1, 0});
    return std::any_of(jobs_.lower_bound({request, 0}), end, [](const auto& entry) { return entry.second->started; });
  };
  job->deadline = begun() ? scheduler::kNoDeadline : driven(request).deadline;
  return add_branch(request, std::move(job), nullptr);
}

std::uint32_t Mailbox::fork(std::uint64_t request, std::uint32_t branch, std::optional<std::uint32_t> alternative) {
  engine_.check_process();
  auto job = std::make_unique<Job>();
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const Job& from = idle_branch(request, branch);
  job->params = from.params;
  job->sampling = from.sampling;
  job->draw = alternative.value_or(from.draw);
  job->prompt_length = from.prompt_length;
  job->deadline = from.deadline;
  return add_branch(request, std::move(job), &from);
}

void Mailbox::rewind(std::uint64_t request, std::uint32_t branch, std::size_t length) {
  engine_.check_process();
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  Job& job = idle_branch(request, branch);
  if (length > job.tokens.size()) {
    refuse("length", std::to_string(length), "at most " + std::to_string(job.tokens.size()) + ", what the branch has");
  }
  engine_.scheduler_.rewind(job, length);
}

void Mailbox::drop(std::uint64_t request, std::uint32_t branch) {
  engine_.check_process();
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  const auto at = jobs_.find({request, branch});
  if (at != jobs_.end()) cancel(at, std::next(at));
}

bool Mailbox::extend(std::uint64_t request, std::uint32_t branch, const std::int32_t* ids, std::size_t count, Ask ask) {
  engine_.check_process();
  const Config& config = engine_.config();
  check_tokens(ids, count, config);
  check_ask(ask, count, config);
  const std::lock_guard<std::mutex> lock(engine_.mutex_);
  Job& job = idle_branch(request, branch);
  std::unique_ptr<Reply> reply = room_for(ask, std::min(config.positions, job.tokens.size() + count), config);
  const bool first = job.tokens.empty();
  const std::size_t guesses = engine_.scheduler_.extend(job, ids, count, ask.drafts, ask.rows);
  if (guesses == scheduler::Scheduler::kFull) return false;
  if (first && job.prompt_length == 0) job.prompt_length = count - ask.drafts;
  reply->rows = std::min(reply->rows, job.window());
  job.ask = std::move(ask);
  job.reply = std::move(reply);
  job.settled = false;
  ++expected_;
  wake();
  return true;
}

// Calls use(job, sampler) outside the mutex. Who cancels the branch meanwhile leaves its end to us.
template <typename Use>
void Mailbox::with_branch(std::uint64_t request, std::uint32_t branch, const Use& use) {
  engine_.check_process();
  std::unique_ptr<sampling::Sampler> sampler;
  std::unique_lock<std::mutex> lock(engine_.mutex_);
  Job* job = &idle_branch(request, branch);
  if (job->borrowed) refuse("branch", number_of(request, branch) + ", used by another thread", "one thread at a time");
  job->borrowed = true;
  sampler = std::move(sampler_);
  lock.unlock();
  struct GiveBack {
    Mailbox& box;
    std::unique_lock<std::mutex>& lock;
    std::unique_ptr<sampling::Sampler>& sampler;
    Job* job;
    ~GiveBack() {
      lock.lock();
      box.sampler_ = std::move(sampler);
      job->borrowed = false;
      if (!job->cancelled) return;
      box.engine_.forget(*job);
      delete job;
    }
  } give_back{*this, lock, sampler, job};
  if (sampler == nullptr) {
    sampler = std::make_unique<sampling::Sampler>(static_cast<int>(engine_.config().vocab));
  }
  use(*job, *sampler);
}

sampling::Choice Mailbox::choose(std::uint64_t request, std::uint32_t branch, const float* logits,
                                 const std::uint32_t* mask) {
  sampling::Choice choice;
  with_branch(request, branch, [&](Job& job, sampling::Sampler& sampler) {
    choice = sampler.next(logits, job.params, place_of(job, job.tokens.size(), mask), job.sampling);
  });
  return choice;
}

void Mailbox::rules(std::uint64_t request, std::uint32_t branch, const float* logits, bool normalise, bool draw_rules,
                    float* out) {
  with_branch(request, branch, [&](Job& job, sampling::Sampler& sampler) {
    sampler.process(logits, job.params, place_of(job, job.tokens.size(), nullptr), job.sampling, normalise, draw_rules,
                    out);
  });
}

// The step's side.

// Which rows of the pass a piece of a branch wants logits of. `row`: the piece's first.
void Engine::list_extension(Job& job, const scheduler::Piece& piece, std::size_t row) {
  std::size_t place = job.window();
  switch (job.ask.kind) {
    case AskKind::kChoices:
      if (!job.settled) place -= job.guesses + 1 - job.reply->choices.size();
      break;
    case AskKind::kCandidates: place -= 1; break;
    case AskKind::kLogits: place = job.first_row(); break;
  }
  layers_wanted_ = layers_wanted_ || !job.ask.layers.empty();
  const std::size_t from = std::max(place, piece.start), to = piece.start + piece.count;
  extensions_.push_back({&job, row, piece.start, piece.count, from < to ? samples_.size() : kNoSample, piece.sample});
  if (from >= to) return;
  samples_.push_back({&job, rows_.size(), from, to - from});
  for (std::size_t at = from; at < to; ++at) rows_.push_back(row + at - piece.start);
}

void Engine::read_hidden() {
  for (const Extension& e : extensions_) {
    if (!e.job->ask.hidden) continue;
    const std::size_t first = e.job->first_row(), from = std::max(first, e.start), to = e.start + e.count;
    if (from >= to) continue;
    model_.normalised(e.row + from - e.start, to - from, e.job->reply->hidden.get() + (from - first) * config().embd);
  }
}

// What the head makes of the residual stream after block `index`, for all rows that want it in one product.
void Engine::read_layers(std::size_t index) {
  struct Part {
    float* to;
    std::size_t first, rows;  // of the pass
  };
  std::vector<Part> parts;
  layer_rows_.clear();
  const std::size_t vocab = config().vocab;
  for (const Extension& e : extensions_) {
    const Job& job = *e.job;
    const std::size_t first = job.first_row(), from = std::max(first, e.start), to = e.start + e.count;
    for (std::size_t k = 0; from < to && k < job.ask.layers.size(); ++k) {
      if (static_cast<std::size_t>(job.ask.layers[k]) != index) continue;
      parts.push_back(
          {job.reply->layers.get() + (k * job.reply->rows + from - first) * vocab, e.row + from - e.start, to - from});
      for (std::size_t at = from; at < to; ++at) layer_rows_.push_back(e.row + at - e.start);
    }
  }
  if (layer_rows_.empty()) return;
  std::sort(layer_rows_.begin(), layer_rows_.end());  // who asks for a layer twice gets it from one row
  layer_rows_.erase(std::unique(layer_rows_.begin(), layer_rows_.end()), layer_rows_.end());
  std::vector<float> logits(layer_rows_.size() * vocab);
  model_.logits(layer_rows_, logits.data(), false);
  for (const Part& part : parts) {
    const auto at = std::lower_bound(layer_rows_.begin(), layer_rows_.end(), part.first) - layer_rows_.begin();
    std::copy_n(logits.data() + static_cast<std::size_t>(at) * vocab, part.rows * vocab, part.to);
  }
}

// What a branch wants of the logits of some of its rows.
void Engine::answer(const Sample& sample, sampling::Sampler& sampler) {
  Job& job = *sample.job;
  Reply& reply = *job.reply;
  const float* logits = logits_.data() + sample.row * config().vocab;
  const std::uint32_t* mask = job.ask.mask.empty() ? nullptr : job.ask.mask.data();
  if (job.ask.kind == AskKind::kLogits) {
    float* to = reply.logits.get() + (sample.place - job.first_row()) * config().vocab;
    std::copy_n(logits, sample.count * config().vocab, to);
    return;
  }
  if (job.ask.kind == AskKind::kCandidates) {
    reply.candidates = sampler.candidates(logits, job.params, place_of(job, job.tokens.size(), mask), job.ask.count,
                                          job.ask.normalise);
    return;
  }
  const std::vector<std::int32_t>& stops = job.params.stop_token_ids;
  for (std::size_t k = 0; k < sample.count && !job.settled; ++k, logits += config().vocab) {
    const std::size_t length = job.window_start + sample.place + k + 1;
    reply.choices.push_back(sampler.next(logits, job.params, place_of(job, length, mask), job.sampling));
    const std::int32_t token = reply.choices.back().token;
    const bool right = length < job.tokens.size() && job.tokens[length] == token;
    job.settled = !right || mask != nullptr || std::find(stops.begin(), stops.end(), token) != stops.end();
  }
}

// Those that are complete are answered, and idle from now on.
void Engine::finish_extensions() {
  for (const Extension& e : extensions_) {
    Job& job = *e.job;
    if (job.cancelled) continue;
    if (e.sample != kNoSample && problems_[e.sample]) {
      fail(job, problems_[e.sample]);
      continue;
    }
    if (!e.last) continue;
    const std::size_t chosen = job.reply->choices.size();
    const std::size_t keep = job.tokens.size() - job.guesses + (chosen == 0 ? 0 : chosen - 1);
    scheduler_.park(job);
    if (keep < job.tokens.size()) scheduler_.rewind(job, keep);
    chosen_ += chosen;
    job.reply->length = job.tokens.size();
    --job.box->expected_;
    Event event;
    event.slides = job.slides;
    event.reply = std::move(job.reply);
    deliver(job, std::move(event));
  }
}

}  // namespace gpt2
