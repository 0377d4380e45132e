// The engine: requests in, tokens out. The only header that a C++ user includes.
//
//   Engine engine(config, tensors, "auto", 2);
//   Request request(engine.config(), prompt_ids, sampling::Params{}, 0);
//   while (...) { auto choices = engine.step({&request}, {}); ... }
//
// One step runs the pending tokens of any number of requests in ragged passes and chooses one token for each. What a
// request gets depends on its own tokens, parameters and alternative alone. One call at a time: calls from several
// threads wait for each other.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/cache.h"
#include "model/forward.h"
#include "sampling/sampler.h"

namespace gpt2 {

using model::Config;
using model::Poll;
using model::Tensor;
using model::Tensors;

// One sequence that is being continued: its tokens, its cache, and how its next token is to be chosen.
class Request {
 public:
  // ids: at least one, all below config.vocab; alternative: which of the n continuations of one prompt this is. Throws
  // kInvalidRequest.
  Request(const Config& config, std::vector<std::int32_t> ids, sampling::Params params, std::uint32_t alternative);

  // The same tokens and (copied) cache, to be continued as another alternative.
  Request fork(std::uint32_t alternative) const;

  const std::vector<std::int32_t>& ids() const { return ids_; }  // prompt and generated tokens
  std::size_t generated() const { return generated_; }
  std::size_t window() const { return ids_.size() - window_start_; }  // tokens that the model sees at the next step
  std::size_t cache_bytes() const { return cache_.bytes(); }

  // Forgets all but the last `keep` tokens: the next step encodes them anew, from position 0. For texts longer than
  // n_positions.
  void slide(std::size_t keep);

 private:
  friend class Engine;
  std::size_t pending_from() const { return window_start_ + cache_.length(); }

  std::vector<std::int32_t> ids_;
  std::size_t generated_ = 0, window_start_ = 0;
  sampling::Params params_;
  std::uint32_t alternative_;
  Cache cache_;
};

class Engine {
 public:
  // isa: "auto", "generic", "avx2", "avx512"; threads >= 1. The memory behind `tensors` must outlive the engine:
  // quantised matrices and float embeddings are read where they lie. Throws
  // kWeights, kEngine, kInvalidRequest.
  Engine(const Config& config, const Tensors& tensors, const std::string& isa, int threads);

  const Config& config() const { return model_.config(); }
  const char* isa() const { return isa_name(isa_); }
  int threads() const { return threads_; }
  std::size_t weight_bytes() const { return model_.weights().bytes(); }

  // Encodes all pending tokens of the requests but the last of each, so that fork() shares the work.
  void prefill(const std::vector<Request*>& requests, const Poll& poll);

  // One new token for each request, appended to it. Throws kInvalidRequest when a window is full (then slide() first).
  std::vector<sampling::Choice> step(const std::vector<Request*>& requests, const Poll& poll);

  // Logits after each of ids[first..], written to out [count - first, V].
  void logits(const std::int32_t* ids, std::size_t count, std::size_t first, float* out, const Poll& poll);

  // log p(ids[i + 1] | ids[0..i]) for i in [0, count - 1), written to out.
  void score(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll);

  // The residual stream: out [L + 1, count, C]; index 0 after the embedding, i after block i, the last one after LN_f
  // (as transformers' hidden_states).
  void hidden_states(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll);

 private:
  struct Pending {
    Cache* cache;
    const std::int32_t* ids;
    std::size_t count;
  };
  // Runs all tokens in passes of at most kMaxRows rows; after each pass calls done(pass) with, for every piece, which
  // Pending it belongs to, its first token there, its first row and its count.
  struct Piece {
    std::size_t owner, first, row, count;
  };
  template <typename Done>
  void run(const std::vector<Pending>& pending, const model::Capture& capture, const Poll& poll, const Done& done);
  void choose(const std::vector<Request*>& requests, const std::vector<float>& logits,
              std::vector<sampling::Choice>& choices);

  Isa isa_;
  int threads_;
  model::Model model_;
  std::vector<sampling::Sampler> samplers_;  // one per thread
  std::mutex mutex_;
};

}  // namespace gpt2
