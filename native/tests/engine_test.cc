// The engine on a small random model: the same bits cached or not, alone or in a batch, with any number of threads; and
// errors that leave it usable.
#include "engine/engine.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <random>

#include "base/errors.h"

namespace {

using namespace gpt2;

std::string isa() {
  const char* name = std::getenv("GPT2_ISA");
  return name == nullptr ? "auto" : name;
}

Config small() {
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

std::vector<std::int32_t> random_ids(std::size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<std::int32_t> out(n);
  for (std::int32_t& id : out) id = static_cast<std::int32_t>(bits() % 131);
  return out;
}

std::vector<float> logits(Engine& engine, const std::vector<std::int32_t>& ids, std::size_t first = 0) {
  std::vector<float> out((ids.size() - first) * engine.config().vocab);
  engine.logits(ids.data(), ids.size(), first, out.data(), nullptr);
  return out;
}

// The tokens that a request gets when it runs alone.
std::vector<std::int32_t> alone(Engine& engine, const std::vector<std::int32_t>& prompt, std::uint64_t seed,
                                int steps) {
  sampling::Params params;
  params.seed = seed;
  Request request(engine.config(), prompt, params, 0);
  for (int i = 0; i < steps; ++i) engine.step({&request}, nullptr);
  return request.ids();
}

TEST_CASE("a prefix has the logits that it has in the whole, whatever the number of threads") {
  const Config c = small();
  const Storage storage(c);
  Engine one(c, storage.tensors, isa(), 1), three(c, storage.tensors, isa(), 3);
  const std::vector<std::int32_t> ids = random_ids(c.positions, 1);
  const std::vector<float> whole = logits(one, ids);
  REQUIRE(logits(three, ids) == whole);
  for (const std::size_t n : {1, 2, 13, 63, 64, 65, 128, 149}) {
    const std::vector<std::int32_t> prefix(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
    const std::vector<float> last = logits(three, prefix, n - 1);
    for (std::size_t v = 0; v < c.vocab; ++v) REQUIRE(last[v] == whole[(n - 1) * c.vocab + v]);
  }
}

TEST_CASE("requests in a batch get what they get alone") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 2);
  std::vector<Request> requests;
  std::vector<std::vector<std::int32_t>> expected;
  for (unsigned i = 0; i < 9; ++i) {
    const std::vector<std::int32_t> prompt = random_ids(1 + 14 * i, i);
    sampling::Params params;
    params.seed = i;
    expected.push_back(alone(engine, prompt, i, 8));
    requests.emplace_back(c, prompt, params, 0);
  }
  std::vector<Request*> all;
  for (Request& r : requests) all.push_back(&r);
  for (int i = 0; i < 8; ++i) engine.step(all, nullptr);
  for (std::size_t i = 0; i < requests.size(); ++i) REQUIRE(requests[i].ids() == expected[i]);
}

TEST_CASE("a fork after the prefill goes on as a request of its own") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 2);
  const std::vector<std::int32_t> prompt = random_ids(70, 3);
  Request first(c, prompt, {}, 0);
  engine.prefill({&first}, nullptr);
  Request second = first.fork(1);
  Request fresh(c, prompt, {}, 1);
  for (int i = 0; i < 5; ++i) engine.step({&first, &second, &fresh}, nullptr);
  REQUIRE(second.ids() == fresh.ids());
  REQUIRE(first.ids() == alone(engine, prompt, 0, 5));
}

TEST_CASE("score is the log-softmax of the logits") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 2);
  const std::vector<std::int32_t> ids = random_ids(100, 5);
  const std::vector<float> all = logits(engine, ids);
  std::vector<float> scores(99);
  engine.score(ids.data(), ids.size(), scores.data(), nullptr);
  for (std::size_t i = 0; i < 99; ++i) {
    REQUIRE(scores[i] == sampling::log_softmax_at(all.data() + i * c.vocab, c.vocab, ids[i + 1]));
  }
}

TEST_CASE("a full window is an error, and sliding makes room") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 2);
  Request request(c, random_ids(c.positions, 6), {}, 0);
  engine.step({&request}, nullptr);
  REQUIRE(request.window() == c.positions + 1);
  CHECK_THROWS_AS(engine.step({&request}, nullptr), Error);
  request.slide(10);
  const std::vector<std::int32_t> tail(request.ids().end() - 10, request.ids().end());
  engine.step({&request}, nullptr);
  REQUIRE(request.window() == 11);
  REQUIRE(request.ids().size() == c.positions + 2);
}

TEST_CASE("a poll that throws leaves the request as it was") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 2);
  const std::vector<std::int32_t> prompt = random_ids(60, 8);
  Request request(c, prompt, {}, 0);
  struct Interrupt {};
  int calls = 0;
  CHECK_THROWS_AS(engine.step({&request},
                              [&] {
                                if (++calls == 2) throw Interrupt();
                              }),
                  Interrupt);
  REQUIRE(request.ids() == prompt);
  for (int i = 0; i < 3; ++i) engine.step({&request}, nullptr);
  REQUIRE(request.ids() == alone(engine, prompt, 0, 3));
}

TEST_CASE("wrong tensors, ids and parameters are errors that name them") {
  const Config c = small();
  Storage storage(c);
  Engine engine(c, storage.tensors, isa(), 1);
  CHECK_THROWS_WITH_AS(Request(c, {}, {}, 0), doctest::Contains("token ids"), Error);
  CHECK_THROWS_WITH_AS(Request(c, {0, 131}, {}, 0), doctest::Contains("position 1: got 131"), Error);
  CHECK_THROWS_WITH_AS(Request(c, {-1}, {}, 0), doctest::Contains("position 0: got -1"), Error);
  CHECK_THROWS_AS(Request(c, random_ids(c.positions + 1, 1), {}, 0), Error);
  storage.tensors["h.1.mlp.c_fc.weight"].shape = {30, 51};
  CHECK_THROWS_WITH_AS(Engine(c, storage.tensors, isa(), 1), doctest::Contains("h.1.mlp.c_fc.weight"), Error);
  storage.tensors.erase("h.1.mlp.c_fc.weight");
  CHECK_THROWS_WITH_AS(Engine(c, storage.tensors, isa(), 1), doctest::Contains("got nothing"), Error);
  CHECK_THROWS_WITH_AS(choose_isa("sse9"), doctest::Contains("sse9"), Error);
}

}  // namespace
