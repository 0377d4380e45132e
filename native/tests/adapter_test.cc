// Adapters in the engine: what they compute, and the same bits in any company of others and of none.
#include "model/adapter.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/errors.h"
#include "engine/engine.h"
#include "tests/small_model.h"

namespace {

using namespace gpt2;
using namespace gpt2::testing;

constexpr const char* kMatrices[] = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"};

std::pair<std::size_t, std::size_t> shape(const Config& c, const std::string& matrix) {
  if (matrix == "attn.c_attn") return {c.embd, 3 * c.embd};
  if (matrix == "attn.c_proj") return {c.embd, c.embd};
  if (matrix == "mlp.c_fc") return {c.embd, c.inner};
  return {c.inner, c.embd};
}

// A random adapter, kept in memory.
struct Change {
  std::map<std::string, std::vector<float>> data;
  AdapterSource source;
  std::mt19937 bits;

  void add(const std::string& name, std::vector<std::size_t> dims, float low, float high) {
    std::size_t n = 1;
    for (std::size_t d : dims) n *= d;
    std::uniform_real_distribution<float> uniform(low, high);
    std::vector<float>& values = data[name];
    values.resize(n);
    for (float& v : values) v = uniform(bits);
    source.tensors[name] = {values.data(), model::Element::kF32, std::move(dims)};
  }

  Change(const Config& c, unsigned seed, std::size_t rank, bool dora, const std::vector<std::string>& matrices)
      : bits(seed) {
    for (std::size_t i = 0; i < c.layers; ++i) {
      for (const std::string& matrix : matrices) {
        const auto [k, n] = shape(c, matrix);
        const std::string name = "h." + std::to_string(i) + "." + matrix;
        add(name + ".lora_A", {rank, k}, -0.3f, 0.3f);
        add(name + ".lora_B", {n, rank}, -0.3f, 0.3f);
        if (dora) add(name + ".lora_magnitude_vector", {n}, 0.5f, 2.0f);
        source.scales[name] = 0.7f;
      }
    }
    source.key = "adapter " + std::to_string(seed);
  }
};

const std::vector<std::string> kAll(std::begin(kMatrices), std::end(kMatrices));

// What the adapter makes of the weights, in doubles rounded once.
Storage merged(const Config& c, const Change& change) {
  Storage out(c);
  for (const auto& [name, scale] : change.source.scales) {
    std::vector<float>& w = out.data[name + ".weight"];
    const std::vector<float>&a = change.data.at(name + ".lora_A"), &b = change.data.at(name + ".lora_B");
    const auto magnitude = change.data.find(name + ".lora_magnitude_vector");
    const auto [k, n] = shape(c, name.substr(4));
    const std::size_t rank = a.size() / k;
    for (std::size_t j = 0; j < n; ++j) {
      std::vector<double> column(k);
      double squares = 0;
      for (std::size_t t = 0; t < k; ++t) {
        double sum = 0;
        for (std::size_t r = 0; r < rank; ++r) {
          sum += static_cast<double>(a[r * k + t]) * static_cast<double>(b[j * rank + r]);
        }
        column[t] = static_cast<double>(w[t * n + j]) + static_cast<double>(scale) * sum;
        squares += column[t] * column[t];
      }
      const double gain =
          magnitude == change.data.end() ? 1.0 : static_cast<double>(magnitude->second[j]) / std::sqrt(squares);
      for (std::size_t t = 0; t < k; ++t) w[t * n + j] = static_cast<float>(gain * column[t]);
    }
  }
  return out;
}

std::vector<float> logits(Engine& engine, const std::vector<std::int32_t>& ids, const AdapterPtr& adapter) {
  std::vector<float> out(ids.size() * engine.config().vocab);
  engine.logits(ids.data(), ids.size(), 0, out.data(), nullptr, adapter);
  return out;
}

TEST_CASE("an adapter computes what its merged weights compute") {
  Config c = small();
  const std::vector<std::int32_t> ids = random_ids(70, 3);
  for (const char* activation : {"gelu_new", "gelu", "relu"}) {
    c.activation = model::activation_named(activation);
    const Storage storage(c);
    Engine engine(c, storage.tensors, with(2));
    const std::vector<float> plain = logits(engine, ids, nullptr);
    for (unsigned seed = 0; seed < 6; ++seed) {
      CAPTURE(activation);
      CAPTURE(seed);
      const std::vector<std::string> matrices = seed < 2 ? kAll : std::vector<std::string>{kMatrices[seed - 2]};
      const Change change(c, seed, 1 + 9 * seed, seed % 2 == 1, matrices);
      const AdapterPtr adapter = engine.adapter(change.source);
      Storage changed = merged(c, change);
      Engine other(c, changed.tensors, with(1));
      const std::vector<float> got = logits(engine, ids, adapter), want = logits(other, ids, nullptr);
      // Two roundings of the same function: sums of at most 100 terms in six products, through two blocks.
      float largest = 0, difference = 0, effect = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        largest = std::max(largest, std::abs(want[i]));
        difference = std::max(difference, std::abs(got[i] - want[i]));
        effect = std::max(effect, std::abs(got[i] - plain[i]));
      }
      CHECK(difference <= 1e-4f * largest);
      CHECK(effect > 1e-2f * largest);
    }
    REQUIRE(logits(engine, ids, nullptr) == plain);
  }
}

TEST_CASE("adapters in one batch, and requests without one beside them, get the bits that they get alone") {
  Config c = small();
  for (const char* activation : {"gelu_new", "gelu"}) {
    c.activation = model::activation_named(activation);
    const Storage storage(c);
    Engine lonely(c, storage.tensors, with(1)), shared(c, storage.tensors, with(3));
    std::vector<AdapterPtr> alone = {nullptr}, together = {nullptr};
    std::vector<Change> changes;
    changes.emplace_back(c, 1, 4, false, kAll);
    changes.emplace_back(c, 2, 17, true, kAll);
    changes.emplace_back(c, 3, 1, false, std::vector<std::string>{"mlp.c_fc"});
    changes.emplace_back(c, 4, 3, true, std::vector<std::string>{"mlp.c_proj"});
    for (const Change& change : changes) {
      alone.push_back(lonely.adapter(change.source));
      together.push_back(shared.adapter(change.source));
    }
    std::mt19937 bits(9);
    std::vector<Request> requests;
    for (std::size_t i = 0; i < 24; ++i) {
      Request r = request(random_ids(1 + bits() % 130, bits() % 2), bits(), 1 + bits() % 20);
      r.alternatives = 1 + bits() % 2;
      requests.push_back(std::move(r));
    }
    std::vector<Answer> expected;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Request r = requests[i];
      r.adapter = alone[i % 5];
      r.share_prefix = false;
      for (Answer& a : run(lonely, {r})) expected.push_back(std::move(a));
      requests[i].adapter = together[i % 5];
    }
    REQUIRE(run(shared, requests) == expected);
    REQUIRE(run(shared, requests) == expected);  // prefixes are found now
    REQUIRE(shared.stats().prefix_hit_tokens > 0);
  }
}

TEST_CASE("prefixes are shared within one adapter only, whatever its key is") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  Change one(c, 1, 2, false, kAll), two(c, 2, 2, false, kAll), three(c, 3, 2, false, kAll), four(c, 4, 2, false, kAll);
  one.source.key = "a";
  two.source.key = std::string("a\0b", 3);
  three.source.key = four.source.key = "";
  const AdapterPtr adapters[] = {nullptr, engine.adapter(one.source), engine.adapter(two.source),
                                 engine.adapter(three.source), engine.adapter(four.source)};
  const auto ask = [&](const AdapterPtr& adapter, const std::string& salt) {
    Request r = request(random_ids(130, 1), 1, 1);
    r.adapter = adapter;
    r.salt = salt;
    const std::uint64_t before = engine.stats().prefix_hit_tokens;
    run(engine, {r});
    return engine.stats().prefix_hit_tokens - before;
  };
  for (const AdapterPtr& adapter : adapters) REQUIRE(ask(adapter, "") == 0);
  REQUIRE(ask(adapters[1], std::string("b\0", 2)) == 0);
  for (const AdapterPtr& adapter : adapters) REQUIRE(ask(adapter, "") == 128);
}

TEST_CASE("a request keeps its adapter to its end") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  const Change change(c, 1, 4, true, kAll);
  AdapterPtr adapter = engine.adapter(change.source);
  const std::weak_ptr<const model::Adapter> watched = adapter;
  Request r = request(random_ids(20, 1), 5, 10);
  r.adapter = adapter;
  const std::vector<Answer> expected = run(engine, {r});
  {
    Mailbox box(engine);
    box.submit(r);
    r.adapter = adapter = nullptr;
    Answers answers;
    std::vector<Event> events;
    while (box.wait(events, nullptr)) {
      REQUIRE((box.live() == 0) == watched.expired());
      add(answers, events);
    }
    REQUIRE(answers.begin()->second == expected.front());
  }
  REQUIRE(watched.expired());
}

TEST_CASE("an adapter that does not fit, or is of another engine, is refused") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1)), other(c, storage.tensors, with(1));
  const auto refused = [&](const auto& change, const char* words) {
    Change wrong(c, 1, 4, true, kAll);
    change(wrong.source);
    try {
      engine.adapter(wrong.source);
      FAIL("nothing was thrown");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kWeights);
      CHECK(std::string(error.what()).find(words) != std::string::npos);
    }
  };
  const std::string name = "h.1.mlp.c_fc";
  refused([&](AdapterSource& s) { s.tensors[name + ".lora_A"].shape = {0, c.embd}; }, "h.1.mlp.c_fc.lora_A");
  refused([&](AdapterSource& s) { s.tensors[name + ".lora_A"].shape = {4, c.embd + 1}; }, "h.1.mlp.c_fc.lora_A");
  refused([&](AdapterSource& s) { s.tensors[name + ".lora_A"].shape = {}; }, "h.1.mlp.c_fc.lora_A");
  refused([&](AdapterSource& s) { s.tensors.erase(name + ".lora_B"); }, "h.1.mlp.c_fc.lora_B");
  refused([&](AdapterSource& s) { s.tensors[name + ".lora_B"].type = model::Element::kBF16; }, "h.1.mlp.c_fc.lora_B");
  refused([&](AdapterSource& s) { s.tensors[name + ".lora_magnitude_vector"].shape = {3}; }, "magnitude");
  refused([&](AdapterSource& s) { s.tensors["h.2.mlp.c_fc.lora_A"] = s.tensors[name + ".lora_A"]; }, "too many");
  refused([&](AdapterSource& s) { s.scales.erase(name); }, "too many");
  refused([&](AdapterSource& s) { s.scales.clear(), s.tensors.clear(); }, "an adapter");

  const Change change(c, 1, 4, false, kAll);
  Request r = request(random_ids(20, 1), 5, 10);
  r.adapter = other.adapter(change.source);
  CHECK_THROWS_AS(run(engine, {r}), const Error&);
  CHECK_THROWS_AS(logits(engine, r.ids, r.adapter), const Error&);
  Mailbox box(engine);
  Driven driven;
  driven.adapter = r.adapter;
  CHECK_THROWS_AS(box.begin(driven), const Error&);
}

}  // namespace
