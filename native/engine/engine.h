// The engine: requests in, tokens out, through mailboxes (mailbox.h). The only header that a C++ user includes.
//
//   Engine engine(config, tensors, {.isa = "auto", .threads = 2});
//   Mailbox box(engine);
//
// It owns the model, the memory of the KV cache, the scheduler that says what runs in a step (scheduler/scheduler.h
// says how fair), and the samplers. What a request gets depends on its own tokens, parameters and alternative alone:
// not on its company, on threads, on how its prompt is cut into chunks, on what the prefix cache holds, or on
// preemption.
//
// Any number of threads may call. One of them at a time computes; the others wait, or come and go between steps. An
// error of one request ends that request.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/block_memory.h"
#include "engine/fair_lock.h"
#include "engine/mailbox.h"
#include "model/forward.h"
#include "sampling/sampler.h"
#include "scheduler/scheduler.h"

namespace gpt2 {

using model::AdapterSource;
using model::Config;
using model::Poll;
using model::Tensor;
using model::Tensors;

struct EngineOptions {
  std::string isa = "auto";  // base/cpu.h
  bool rounding = false;     // activations may be rounded to bfloat16 beside bfloat16 weights, where that is faster
  int threads = 1;           // that compute, the caller's included
  std::vector<int> cpus;     // processors for the threads but the caller's (base/thread_pool.h); empty: any
  // At most, for keys and values; allocated as it is used. 0: a quarter of available_bytes, and at least a full window.
  std::size_t cache_bytes = 0;
  std::size_t available_bytes = std::size_t{1} << 30;  // memory that the machine has left
  std::size_t max_batch = 256;                         // sequences that run together
  std::size_t max_queue = 1024;                        // sequences that wait for that
  std::size_t step_tokens = 256;                       // tokens of one step, at most Model::kMaxRows
  bool prefix_cache = true;
  std::string name;  // of the weights: prefixes are shared within one name
};

struct Stats {
  std::size_t waiting, running;  // sequences; waiting counts held alternatives, too
  std::size_t blocks, blocks_used, blocks_cached, blocks_free, block_bytes, cache_bytes;
  std::uint64_t requests, sequences_ended, errors, cancelled;
  std::uint64_t steps, tokens_computed, tokens_chosen;
  std::uint64_t prompt_tokens, prefix_hit_tokens, preemptions;
};

// Throw kInvalidRequest: an id outside the vocabulary (or none), more tokens than a window has.
void check_tokens(const std::int32_t* ids, std::size_t count, const Config& config);
void check_window(std::size_t tokens, const Config& config);

class Engine {
 public:
  // The memory behind the tensors that borrowed() names must outlive the engine: quantised matrices and float
  // embeddings are read where they lie. Throws kWeights, kEngine, kInvalidRequest, std::bad_alloc.
  Engine(const Config& config, const Tensors& tensors, const EngineOptions& options);
  ~Engine();

  const Config& config() const { return model_.config(); }
  const char* isa() const { return isa_name(isa_); }
  int threads() const { return threads_; }
  std::size_t weight_bytes() const { return model_.weights().bytes(); }
  const std::vector<std::string>& borrowed() const { return model_.weights().borrowed; }
  std::size_t max_batch() const { return scheduler_.limits().max_running; }
  Stats stats() const;

  // An adapter for requests of this engine; the source's memory is not needed afterwards. Waits for the step that runs.
  // Throws kWeights, naming the tensor that does not fit, and std::bad_alloc.
  AdapterPtr adapter(const AdapterSource& source);

  // Logits after each of ids[first..], written to out [count - first, V].
  void logits(const std::int32_t* ids, std::size_t count, std::size_t first, float* out, const Poll& poll,
              const AdapterPtr& adapter = nullptr);

  // log p(ids[i + 1] | ids[0..i]) for i in [0, count - 1), written to out.
  void score(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll,
             const AdapterPtr& adapter = nullptr);

  // The residual stream: out [L + 1, count, C]; index 0 after the embedding, i after block i, the last one after LN_f
  // (as transformers' hidden_states).
  void hidden_states(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll,
                     const AdapterPtr& adapter = nullptr);

 private:
  friend class Mailbox;
  struct Sample {  // one token to choose; of a branch: logits that it wants
    Job* job;
    std::size_t row;        // of logits_
    std::size_t place = 0;  // of a branch: the position in its window ...
    std::size_t count = 1;  // ... and how many of them, row by row
    sampling::State state = {};
  };
  struct Extension {  // a piece of a branch
    Job* job;
    std::size_t row;  // of the pass, the piece's first
    std::size_t start, count;
    std::size_t sample;  // of samples_, if it has one
    bool last;
  };

  // step.cc: one step. Returns whether there was anything to do. On an exception every request stands where it stood.
  bool step(const Poll& poll);
  bool prepare();
  void back_with_memory();
  void list_samples();
  void choose();
  void finish_step();
  void finish_sample(std::size_t i);
  void deliver(Job& job, Event event);
  void fail(Job& job, const std::exception_ptr& error);
  void end(Job& job);
  void forget(Job& job);
  void end_expired();

  // branches.cc
  void list_extension(Job& job, const scheduler::Piece& piece, std::size_t row);
  void read_layers(std::size_t index);
  void read_hidden();
  void answer(const Sample& sample, sampling::Sampler& sampler);
  void finish_extensions();
  void clean_up();

  // mailbox.cc
  void call_next_leader();
  void cancel_job(std::unique_ptr<Job> job);
  void link(Mailbox& box);
  void unlink(Mailbox& box);

  // engine.cc: all of `ids` in scratch blocks; after each chunk calls done(first position, count).
  template <typename Done>
  void run_alone(const std::int32_t* ids, std::size_t count, const AdapterPtr& adapter, const model::Capture& capture,
                 const Poll& poll, const Done& done);
  // Within which prefixes are shared: the weights, the adapter and the salt. Throws kInvalidRequest for an adapter of
  // another engine.
  scheduler::Space space_of(const AdapterPtr& adapter, const std::string& salt) const;
  void check_adapter(const AdapterPtr& adapter) const;
  scheduler::Limits limits(const Config& config, const EngineOptions& options) const;
  bool forked() const;
  void check_process() const;  // throws kEngine in a fork

  Isa isa_;
  int threads_, process_;
  bool prefix_cache_;
  std::string name_;
  model::Model model_;
  std::vector<sampling::Sampler> samplers_;  // one per thread
  BlockMemory memory_;

  FairLock turn_;  // whoever holds it computes

  mutable std::mutex mutex_;  // all below; never held while computing, and by nobody who waits for Python's lock
  scheduler::Scheduler scheduler_;
  std::uint64_t next_request_ = 1;
  bool leading_ = false;  // some thread has taken it on itself to run steps
  Mailbox* waiters_ = nullptr;
  Job* orphans_ = nullptr;
  std::uint64_t requests_ = 0, ended_ = 0, errors_ = 0, cancelled_ = 0, steps_ = 0, computed_ = 0, chosen_ = 0;

  // Of the step that runs; by the thread that runs it.
  const scheduler::Plan* plan_ = nullptr;
  std::vector<std::byte*> pointers_;
  std::vector<model::Slice> slices_;
  std::vector<std::size_t> rows_;
  std::vector<Sample> samples_;
  std::vector<Extension> extensions_;
  bool layers_wanted_ = false;
  std::vector<std::size_t> layer_rows_;
  std::vector<sampling::Choice> choices_;
  std::vector<std::exception_ptr> problems_;
  std::vector<float> logits_;
  std::vector<Job*> in_step_;
};

}  // namespace gpt2
