#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "engine/job.h"
#include "kernels/types.h"

namespace gpt2 {

static_assert(scheduler::kBlockTokens == kernels::kBlock, "the scheduler and the kernels mean the same block");

namespace {

std::size_t window_blocks(const Config& config) {
  return (config.positions + scheduler::kBlockTokens - 1) / scheduler::kBlockTokens;
}

void check_ids(const std::int32_t* ids, std::size_t count, std::size_t tokens, const Config& config) {
  check_tokens(ids, count, config);
  check_window(tokens, config);
}

}  // namespace

void check_window(std::size_t tokens, const Config& config) {
  if (tokens <= config.positions) return;
  throw Error(ErrorKind::kInvalidRequest, "the tokens do not fit the context window",
              std::to_string(tokens) + " tokens", "at most " + std::to_string(config.positions) + " (n_positions)");
}

void check_tokens(const std::int32_t* ids, std::size_t count, const Config& config) {
  if (count == 0) throw Error(ErrorKind::kInvalidRequest, "token ids", "none", "at least one");
  for (std::size_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && static_cast<std::size_t>(ids[i]) < config.vocab) continue;
    throw Error(ErrorKind::kInvalidRequest, "token id at position " + std::to_string(i), std::to_string(ids[i]),
                "0 to " + std::to_string(config.vocab - 1) + " (the vocabulary)");
  }
}

Engine::Engine(const Config& config, const Tensors& tensors, const EngineOptions& options)
    : isa_(choose_isa(options.isa, options.rounding)),
      threads_(options.threads),
      process_(static_cast<int>(getpid())),
      prefix_cache_(options.prefix_cache),
      name_(options.name),
      model_(config, tensors, kernels::kernels_for(isa_), options.threads, options.cpus),
      memory_(limits(config, options).blocks, model_.cache_shape().block_bytes()),
      scheduler_(limits(config, options)) {
  for (int t = 0; t < threads_; ++t) samplers_.emplace_back(static_cast<int>(config.vocab));
  const std::size_t batch = options.max_batch;
  pointers_.resize(batch * window_blocks(config));
  slices_.reserve(batch), rows_.reserve(batch), samples_.reserve(batch), in_step_.reserve(batch);
  extensions_.reserve(batch);
  choices_.resize(batch), problems_.resize(batch);
}

Engine::~Engine() = default;

scheduler::Limits Engine::limits(const Config& config, const EngineOptions& o) const {
  const auto need = [](bool holds, const char* what, std::size_t got, const std::string& expected) {
    if (!holds) throw Error(ErrorKind::kInvalidRequest, what, std::to_string(got), expected);
  };
  const std::size_t bytes = model_.cache_shape().block_bytes(), window = window_blocks(config);
  need(o.max_batch >= 1 && o.max_batch <= model::Model::kMaxRows, "max_batch", o.max_batch,
       "1 to " + std::to_string(model::Model::kMaxRows));
  need(o.max_queue <= 1u << 20, "max_queue", o.max_queue, "at most " + std::to_string(1u << 20));
  need(o.step_tokens >= 1 && o.step_tokens <= model::Model::kMaxRows, "step_tokens", o.step_tokens,
       "1 to " + std::to_string(model::Model::kMaxRows));
  need(o.cache_bytes == 0 || o.cache_bytes >= bytes, "cache_bytes", o.cache_bytes,
       "at least " + std::to_string(bytes) + ", the keys and values of " + std::to_string(kernels::kBlock) +
           " positions; a full window needs " + std::to_string(window * bytes));
  scheduler::Limits limits;
  // A batch of full windows, and as much again for prefixes that nobody uses: more would hardly ever be touched.
  const std::size_t most = 2 * window * (o.max_batch + 1);
  const std::size_t wanted =
      o.cache_bytes == 0 ? std::max(window, o.available_bytes / 4 / bytes) : o.cache_bytes / bytes;
  limits.blocks = std::min(most, wanted);
  limits.positions = config.positions;
  limits.rows = o.step_tokens;
  limits.max_running = o.max_batch;
  limits.max_waiting = o.max_queue;
  return limits;
}

bool Engine::forked() const { return process_ != static_cast<int>(getpid()); }

void Engine::check_process() const {
  if (!forked()) return;
  throw Error(ErrorKind::kEngine, "the engine was used after fork()", "a child process", "the process that loaded it",
              "load the model again in the child");
}

Stats Engine::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const scheduler::BlockPool& pool = scheduler_.pool();
  const scheduler::Counters& c = scheduler_.counters();
  Stats s = {};
  s.waiting = scheduler_.waiting() + scheduler_.held();
  s.running = scheduler_.running();
  s.blocks = pool.size(), s.blocks_used = pool.used(), s.blocks_cached = pool.cached(), s.blocks_free = pool.free();
  s.block_bytes = memory_.block_bytes(), s.cache_bytes = memory_.bytes();
  s.requests = requests_, s.sequences_ended = ended_, s.errors = errors_, s.cancelled = cancelled_;
  s.steps = steps_, s.tokens_computed = computed_, s.tokens_chosen = chosen_;
  s.prompt_tokens = c.prompt_tokens, s.prefix_hit_tokens = c.hit_tokens, s.preemptions = c.preemptions;
  return s;
}

AdapterPtr Engine::adapter(const AdapterSource& source) {
  check_process();
  const std::lock_guard<FairLock> turn(turn_);
  return model_.adapter(source);
}

void Engine::check_adapter(const AdapterPtr& adapter) const {
  if (adapter == nullptr || model_.owns(*adapter)) return;
  throw Error(ErrorKind::kInvalidRequest, "adapter", "one of another model", "one that this engine made");
}

scheduler::Space Engine::space_of(const AdapterPtr& adapter, const std::string& salt) const {
  check_adapter(adapter);
  // The length says where the key ends, whatever is in it.
  const std::string key = adapter == nullptr ? std::string() : adapter->key;
  return std::make_shared<const std::string>(name_ + '\0' + std::to_string(key.size()) + '\0' + key + salt);
}

template <typename Done>
void Engine::run_alone(const std::int32_t* ids, std::size_t count, const AdapterPtr& adapter,
                       const model::Capture& capture, const Poll& poll, const Done& done) {
  check_process();
  check_adapter(adapter);
  const std::lock_guard<FairLock> turn(turn_);
  struct Scratch {
    Engine& engine;
    std::vector<scheduler::BlockId> blocks;
    ~Scratch() {
      const std::lock_guard<std::mutex> lock(engine.mutex_);
      engine.scheduler_.release_scratch(blocks);
    }
  } scratch{*this, {}};
  std::vector<std::byte*> pointers;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    scheduler_.take_scratch((count + scheduler::kBlockTokens - 1) / scheduler::kBlockTokens, scratch.blocks);
  }
  for (const scheduler::BlockId b : scratch.blocks) pointers.push_back(memory_.get(b));
  for (std::size_t at = 0; at < count; at += model::Model::kMaxRows) {
    const std::size_t rows = std::min(model::Model::kMaxRows, count - at);
    model_.forward({{pointers.data(), at, ids + at, rows, adapter.get()}}, capture, poll);
    done(at, rows);
  }
}

void Engine::logits(const std::int32_t* ids, std::size_t count, std::size_t first, float* out, const Poll& poll,
                    const AdapterPtr& adapter) {
  check_ids(ids, count, count, config());
  std::vector<std::size_t> rows;
  run_alone(ids, count, adapter, nullptr, poll, [&](std::size_t at, std::size_t n) {
    rows.clear();
    for (std::size_t i = 0; i < n; ++i) {
      if (at + i >= first) rows.push_back(i);
    }
    if (!rows.empty()) model_.logits(rows, out + (at + rows.front() - first) * config().vocab);
  });
}

void Engine::score(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll,
                   const AdapterPtr& adapter) {
  check_ids(ids, count, count - 1, config());
  if (count < 2) return;
  // Only this many rows of logits exist at a time: 64 x 50,257 float32 are 13 MB.
  constexpr std::size_t kRows = 64;
  const std::size_t v = config().vocab;
  std::vector<float> logits(std::min(kRows, count) * v);
  std::vector<std::size_t> rows;
  run_alone(ids, count - 1, adapter, nullptr, poll, [&](std::size_t begin, std::size_t n) {
    for (std::size_t at = 0; at < n; at += kRows) {
      rows.clear();
      for (std::size_t i = at; i < std::min(n, at + kRows); ++i) rows.push_back(i);
      model_.logits(rows, logits.data());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::size_t position = begin + rows[i];
        out[position] = sampling::log_softmax_at(logits.data() + i * v, v, ids[position + 1]);
      }
    }
  });
}

void Engine::hidden_states(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll,
                           const AdapterPtr& adapter) {
  check_ids(ids, count, count, config());
  const std::size_t c = config().embd, layers = config().layers;
  std::size_t done = 0;  // positions of earlier passes
  const auto capture = [&](std::size_t index, const float* rows) {
    const std::size_t n = std::min(model::Model::kMaxRows, count - done);
    if (index < layers) std::memcpy(out + (index * count + done) * c, rows, n * c * sizeof(float));
  };
  run_alone(ids, count, adapter, capture, poll, [&](std::size_t at, std::size_t n) {
    model_.normalised(0, n, out + (layers * count + at) * c);
    done += n;
  });
}

}  // namespace gpt2
