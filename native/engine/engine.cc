#include "engine/engine.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "base/errors.h"

namespace gpt2 {
namespace {

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

}  // namespace

Request::Request(const Config& config, std::vector<std::int32_t> ids, sampling::Params params,
                 std::uint32_t alternative)
    : ids_(std::move(ids)), params_(std::move(params)), alternative_(alternative), cache_(model::CacheShape(config)) {
  check_tokens(ids_.data(), ids_.size(), config);
  check_window(ids_.size(), config);
  sampling::check(params_, static_cast<int>(config.vocab));
}

Request Request::fork(std::uint32_t alternative) const {
  Request copy = *this;
  copy.alternative_ = alternative;
  return copy;
}

void Request::slide(std::size_t keep) {
  window_start_ = ids_.size() - std::clamp<std::size_t>(keep, 1, ids_.size());
  cache_.set_length(0);
}

Engine::Engine(const Config& config, const Tensors& tensors, const std::string& isa, int threads)
    : isa_(choose_isa(isa)), threads_(threads), model_(config, tensors, kernels::kernels_for(isa_), threads) {
  for (int t = 0; t < threads; ++t) samplers_.emplace_back(static_cast<int>(config.vocab));
}

template <typename Done>
void Engine::run(const std::vector<Pending>& pending, const model::Capture& capture, const Poll& poll,
                 const Done& done) {
  for (const Pending& p : pending) p.cache->reserve(p.cache->length() + p.count);  // all or nothing
  std::vector<model::Slice> slices;
  std::vector<Piece> pieces;
  std::size_t owner = 0, first = 0;
  while (owner < pending.size()) {
    std::size_t rows = 0;
    slices.clear();
    pieces.clear();
    while (owner < pending.size() && rows < model::Model::kMaxRows) {
      const Pending& p = pending[owner];
      const std::size_t count = std::min(p.count - first, model::Model::kMaxRows - rows);
      if (count > 0) {
        slices.push_back({p.cache->blocks(), p.cache->length(), p.ids + first, count});
        pieces.push_back({owner, first, rows, count});
      }
      rows += count;
      first += count;
      if (first == p.count) ++owner, first = 0;
    }
    if (rows == 0) break;
    model_.forward(slices, capture, poll);
    for (const Piece& p : pieces) pending[p.owner].cache->set_length(pending[p.owner].cache->length() + p.count);
    done(pieces);
  }
}

void Engine::prefill(const std::vector<Request*>& requests, const Poll& poll) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Pending> pending;
  for (Request* r : requests) {
    check_window(r->window(), config());
    const std::size_t from = r->pending_from();
    pending.push_back({&r->cache_, r->ids_.data() + from, r->ids_.size() - 1 - std::min(from, r->ids_.size() - 1)});
  }
  run(pending, nullptr, poll, [](const std::vector<Piece>&) {});
}

std::vector<sampling::Choice> Engine::step(const std::vector<Request*>& requests, const Poll& poll) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Pending> pending;
  for (Request* r : requests) {
    check_window(r->window(), config());
    r->ids_.reserve(r->ids_.size() + 1);
    pending.push_back({&r->cache_, r->ids_.data() + r->pending_from(), r->ids_.size() - r->pending_from()});
  }
  std::vector<sampling::Choice> choices(requests.size());
  std::vector<float> logits;
  std::vector<std::size_t> rows;
  std::vector<std::size_t> owners;
  std::vector<Request*> ready;
  run(pending, nullptr, poll, [&](const std::vector<Piece>& pieces) {
    rows.clear();
    owners.clear();
    ready.clear();
    for (const Piece& piece : pieces) {
      if (piece.first + piece.count < pending[piece.owner].count) continue;
      rows.push_back(piece.row + piece.count - 1);
      owners.push_back(piece.owner);
      ready.push_back(requests[piece.owner]);
    }
    if (rows.empty()) return;
    logits.resize(rows.size() * config().vocab);
    model_.logits(rows, logits.data());
    std::vector<sampling::Choice> chosen(rows.size());
    choose(ready, logits, chosen);
    for (std::size_t i = 0; i < owners.size(); ++i) choices[owners[i]] = std::move(chosen[i]);
  });
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i]->ids_.push_back(choices[i].token);
    ++requests[i]->generated_;
  }
  return choices;
}

void Engine::choose(const std::vector<Request*>& requests, const std::vector<float>& logits,
                    std::vector<sampling::Choice>& choices) {
  std::vector<std::exception_ptr> errors(requests.size());
  model_.pool().run(requests.size(), [&](std::size_t i, int thread) {
    try {
      const Request& r = *requests[i];
      choices[i] = samplers_[static_cast<std::size_t>(thread)].next(
          logits.data() + i * config().vocab, r.params_, r.ids_.data(), r.ids_.size(), r.generated_, r.alternative_);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

void Engine::logits(const std::int32_t* ids, std::size_t count, std::size_t first, float* out, const Poll& poll) {
  check_tokens(ids, count, config());
  check_window(count, config());
  const std::lock_guard<std::mutex> lock(mutex_);
  Cache cache(model_.cache_shape());
  std::vector<std::size_t> rows;
  run({{&cache, ids, count}}, nullptr, poll, [&](const std::vector<Piece>& pieces) {
    const Piece& piece = pieces.front();
    rows.clear();
    for (std::size_t i = 0; i < piece.count; ++i) {
      if (piece.first + i >= first) rows.push_back(i);
    }
    if (rows.empty()) return;
    model_.logits(rows, out + (piece.first + rows.front() - first) * config().vocab);
  });
}

void Engine::score(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll) {
  check_tokens(ids, count, config());
  check_window(count - 1, config());
  if (count < 2) return;
  // Only this many rows of logits exist at a time: 64 x 50,257 float32 are 13 MB.
  constexpr std::size_t kRows = 64;
  const std::size_t v = config().vocab;
  const std::lock_guard<std::mutex> lock(mutex_);
  Cache cache(model_.cache_shape());
  std::vector<float> logits(std::min(kRows, count) * v);
  std::vector<std::size_t> rows;
  run({{&cache, ids, count - 1}}, nullptr, poll, [&](const std::vector<Piece>& pieces) {
    const Piece& piece = pieces.front();
    for (std::size_t at = 0; at < piece.count; at += kRows) {
      rows.clear();
      for (std::size_t i = at; i < std::min(piece.count, at + kRows); ++i) rows.push_back(i);
      model_.logits(rows, logits.data());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::size_t position = piece.first + rows[i];
        out[position] = sampling::log_softmax_at(logits.data() + i * v, v, ids[position + 1]);
      }
    }
  });
}

void Engine::hidden_states(const std::int32_t* ids, std::size_t count, float* out, const Poll& poll) {
  check_tokens(ids, count, config());
  check_window(count, config());
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t c = config().embd, layers = config().layers;
  Cache cache(model_.cache_shape());
  std::size_t done = 0;  // positions of earlier passes
  const auto capture = [&](std::size_t index, const float* rows) {
    const std::size_t n = std::min(model::Model::kMaxRows, count - done);
    if (index < layers) std::memcpy(out + (index * count + done) * c, rows, n * c * sizeof(float));
  };
  run({{&cache, ids, count}}, capture, poll, [&](const std::vector<Piece>& pieces) {
    const std::size_t n = pieces.front().count;
    model_.normalised(0, n, out + (layers * count + done) * c);
    done += n;
  });
}

}  // namespace gpt2
