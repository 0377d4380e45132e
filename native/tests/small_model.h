// A small random model and requests to it, for the tests of the engine.
#pragma once
#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "engine/engine.h"

namespace gpt2::testing {

inline std::string isa() {
  const char* name = std::getenv("GPT2_ISA");
  return name == nullptr ? "auto" : name;
}

inline Config small() {
  Config c;
  c.vocab = 131, c.positions = 150, c.embd = 30, c.layers = 2, c.heads = 3, c.inner = 50;
  return c;
}

// Weights of a model, kept in memory.
struct Storage {
  std::map<std::string, std::vector<float>> data;
  Tensors tensors;
  std::mt19937 bits{7};

  void add(const std::string& name, std::vector<std::size_t> shape) {
    std::size_t n = 1;
    for (std::size_t d : shape) n *= d;
    std::normal_distribution<float> normal(0.0f, 0.3f);
    std::vector<float>& values = data[name];
    values.resize(n);
    for (float& v : values) v = normal(bits);
    tensors[name] = {values.data(), model::Element::kF32, std::move(shape)};
  }

  explicit Storage(const Config& c) {
    add("wte.weight", {c.vocab, c.embd});
    add("wpe.weight", {c.positions, c.embd});
    for (const char* part : {"weight", "bias"}) add(std::string("ln_f.") + part, {c.embd});
    for (std::size_t i = 0; i < c.layers; ++i) {
      const std::string h = "h." + std::to_string(i) + ".";
      for (const char* ln : {"ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"}) add(h + ln, {c.embd});
      add(h + "attn.c_attn.weight", {c.embd, 3 * c.embd}), add(h + "attn.c_attn.bias", {3 * c.embd});
      add(h + "attn.c_proj.weight", {c.embd, c.embd}), add(h + "attn.c_proj.bias", {c.embd});
      add(h + "mlp.c_fc.weight", {c.embd, c.inner}), add(h + "mlp.c_fc.bias", {c.inner});
      add(h + "mlp.c_proj.weight", {c.inner, c.embd}), add(h + "mlp.c_proj.bias", {c.embd});
    }
  }
};

inline std::vector<std::int32_t> random_ids(std::size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<std::int32_t> out(n);
  for (std::int32_t& id : out) id = static_cast<std::int32_t>(bits() % 131);
  return out;
}

inline EngineOptions with(int threads) {
  EngineOptions o;
  o.isa = isa();
  o.threads = threads;
  return o;
}

inline Request request(std::vector<std::int32_t> ids, std::uint64_t seed, std::size_t max_new) {
  Request r;
  r.ids = std::move(ids);
  r.params.seed = seed;
  r.params.logprobs = 2;
  r.max_new_tokens = max_new;
  return r;
}

// Everything that one alternative gets, in comparable form.
struct Answer {
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<sampling::TokenLogprob> top;
  std::uint32_t slides = 0;
  Ended ended = Ended::kNo;
  bool operator==(const Answer&) const = default;
};
using Answers = std::map<std::pair<std::uint64_t, std::uint32_t>, Answer>;

inline void add(Answers& answers, const std::vector<Event>& events) {
  for (const Event& e : events) {
    if (e.error) std::rethrow_exception(e.error);
    Answer& a = answers[{e.request, e.alternative}];
    REQUIRE(a.ended == Ended::kNo);
    a.tokens.push_back(e.choice.token);
    a.logprobs.push_back(e.choice.logprob);
    a.top.insert(a.top.end(), e.choice.top.begin(), e.choice.top.end());
    a.slides = e.slides;
    a.ended = e.ended;
  }
}

// Runs the requests together; the answers in their order, alternatives side by side.
inline std::vector<Answer> run(Engine& engine, const std::vector<Request>& requests) {
  Mailbox box(engine);
  for (const Request& r : requests) box.submit(r);
  Answers answers;
  std::vector<Event> events;
  while (box.wait(events, nullptr)) add(answers, events);
  std::vector<Answer> out;
  for (auto& [key, answer] : answers) out.push_back(std::move(answer));
  return out;
}

}  // namespace gpt2::testing
