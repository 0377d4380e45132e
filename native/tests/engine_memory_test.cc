// The k-th allocation fails, for every k (SQLite's out-of-memory loop), and the k-th thread cannot be started: a clean
// error, nothing left behind, and an engine that then gives the answers that it always gives. Its own program, because
// it stands between the engine and the allocator.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <malloc.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <new>

#include "base/errors.h"
#include "tests/small_model.h"

namespace {

// Lets some calls pass and one fail.
class Fault {
 public:
  void arm(long calls) {
    failed_ = 0;
    left_ = calls;
  }
  void disarm() { left_ = -1; }
  bool strikes() {
    if (left_.load(std::memory_order_relaxed) < 0) return false;
    if (left_.fetch_sub(1) != 0) return false;
    ++failed_;
    return true;
  }
  bool struck() const { return failed_ > 0; }

 private:
  std::atomic<long> left_{-1};  // before one fails; negative: none does
  std::atomic<long> failed_{0};
};

Fault allocations, threads;

void* allocate(std::size_t alignment, std::size_t size) {
  if (allocations.strikes()) return nullptr;
  return memalign(alignment, size == 0 ? 1 : size);
}

}  // namespace

// Replaces what the engine calls. GCC cannot see that both ends belong together.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif
void* operator new(std::size_t size) {
  if (void* p = allocate(alignof(std::max_align_t), size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, std::size_t) noexcept { free(p); }
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return allocate(alignment, size); }
// Visible, so that the C++ library finds this one.
extern "C" [[gnu::visibility("default")]] int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                             void* (*start)(void*), void* argument) noexcept {
  if (threads.strikes()) return EAGAIN;
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, start, argument);
}

namespace {

using namespace gpt2;
using namespace gpt2::testing;

std::vector<Request> requests() {
  std::vector<Request> out;
  for (const unsigned n : {70u, 5u, 64u}) {
    out.push_back(request(random_ids(n, 1), n, 4));
    out.back().alternatives = n == 70 ? 3 : 1;
    out.back().salt = "a salt that is too long to lie in the string itself";
  }
  return out;
}

// Runs what it may; returns how many ended with an error.
int attempt(Engine& engine) {
  int errors = 0;
  try {
    Mailbox box(engine);
    for (const Request& r : requests()) box.submit(r);
    std::vector<Event> events;
    while (box.wait(events, nullptr)) {
      for (const Event& e : events) errors += e.error ? 1 : 0;
    }
  } catch (const std::bad_alloc&) {
    ++errors;
  }
  return errors;
}

// A driven request with all kinds of answers; returns how many ended with an error.
int drive(Engine& engine) {
  int errors = 0;
  try {
    Mailbox box(engine);
    std::vector<Event> events;
    const auto answers = [&] {
      while (box.wait(events, nullptr)) {
        for (const Event& e : events) errors += e.error ? 1 : 0;
      }
    };
    Driven options;
    options.salt = "a salt that is too long to lie in the string itself";
    const std::uint64_t request = box.begin(options);
    const std::uint32_t branch = box.open(request, {}, 0, 0);
    const std::vector<std::int32_t> ids = random_ids(70, 1);
    Ask ask;
    ask.kind = AskKind::kLogits;
    ask.rows = 3;
    ask.hidden = true;
    ask.layers = {0, 2};
    box.extend(request, branch, ids.data(), ids.size(), ask);
    answers();
    if (errors > 0) return errors;
    const std::uint32_t other = box.fork(request, branch);
    ask = {};
    ask.drafts = 4;
    box.extend(request, branch, ids.data(), 5, ask);
    ask = {};
    ask.kind = AskKind::kCandidates;
    ask.count = 10;
    ask.mask.assign(5, ~0u);
    box.extend(request, other, ids.data(), 60, ask);
    answers();
    if (errors > 0) return errors;
    const std::vector<float> logits(engine.config().vocab, 0.0f);
    box.choose(request, other, logits.data(), nullptr);
    box.rewind(request, other, 3);
    box.extend(request, other, ids.data(), 2, {});
    answers();
  } catch (const std::bad_alloc&) {
    ++errors;
  }
  return errors;
}

// An adapter of the first matrix of each block.
AdapterSource adapter_source(const Config& c, const std::vector<float>& numbers) {
  AdapterSource source;
  for (std::size_t i = 0; i < c.layers; ++i) {
    const std::string name = "h." + std::to_string(i) + ".attn.c_proj";
    source.tensors[name + ".lora_A"] = {numbers.data(), model::Element::kF32, {3, c.embd}};
    source.tensors[name + ".lora_B"] = {numbers.data() + 7, model::Element::kF32, {c.embd, 3}};
    source.tensors[name + ".lora_magnitude_vector"] = {numbers.data(), model::Element::kF32, {c.embd}};
    source.scales[name] = 0.5f;
  }
  return source;
}

TEST_CASE("an allocation that fails while an adapter is loaded is an error, and the engine goes on") {
  const Config c = small();
  const Storage storage(c);
  std::vector<float> numbers(200);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 0.1f + 0.01f * static_cast<float>(i);
  const AdapterSource source = adapter_source(c, numbers);
  Engine reference(c, storage.tensors, with(1));
  Request r = requests().front();
  const std::vector<Answer> plain = run(reference, {r});
  r.adapter = reference.adapter(source);
  const std::vector<Answer> expected = run(reference, {r});
  REQUIRE(!(expected == plain));
  long k = 0;
  for (long quiet = 0; quiet < 2; ++k) {
    CAPTURE(k);
    Engine engine(c, storage.tensors, with(1));
    r.adapter = nullptr;
    allocations.arm(k);
    try {
      r.adapter = engine.adapter(source);
    } catch (const std::bad_alloc&) {
    }
    allocations.disarm();
    quiet = allocations.struck() ? 0 : quiet + 1;
    REQUIRE((r.adapter == nullptr) == allocations.struck());
    REQUIRE(run(engine, {r}) == (r.adapter == nullptr ? plain : expected));
    r.adapter = engine.adapter(source);
    REQUIRE(run(engine, {r}) == expected);
  }
  CHECK(k > 10);
}

TEST_CASE("an allocation that fails while branches are driven is an error, and the engine goes on") {
  const Config c = small();
  const Storage storage(c);
  Engine reference(c, storage.tensors, with(1));
  const std::vector<Answer> expected = run(reference, requests());
  long k = 0;
  for (long quiet = 0; quiet < 3; ++k) {
    CAPTURE(k);
    Engine engine(c, storage.tensors, with(1));
    allocations.arm(k);
    const int errors = drive(engine);
    allocations.disarm();
    quiet = allocations.struck() ? 0 : quiet + 1;
    REQUIRE((errors > 0) == allocations.struck());
    REQUIRE(engine.stats().blocks_used == 0);
    REQUIRE(engine.stats().waiting + engine.stats().running == 0);
    REQUIRE(run(engine, requests()) == expected);
  }
  REQUIRE(k > 40);
}

TEST_CASE("an allocation that fails while generating is an error, and the engine goes on") {
  const Config c = small();
  const Storage storage(c);
  long k = 0;
  for (long quiet = 0; quiet < 3; ++k) {
    CAPTURE(k);
    Engine engine(c, storage.tensors, with(1));
    const std::vector<Answer> expected = k == 0 ? run(engine, requests()) : std::vector<Answer>();
    allocations.arm(k);
    const int errors = attempt(engine);
    allocations.disarm();
    quiet = allocations.struck() ? 0 : quiet + 1;  // the attempt needs no more than k allocations
    REQUIRE((errors > 0) == allocations.struck());
    REQUIRE(engine.stats().blocks_used == 0);
    REQUIRE(engine.stats().waiting + engine.stats().running == 0);
    static std::vector<Answer> first = expected;
    REQUIRE(run(engine, requests()) == first);
  }
  MESSAGE("allocations that were made to fail: " << k);
  REQUIRE(k > 50);
}

TEST_CASE("an allocation that fails while loading is an error, and nothing is left behind") {
  const Config c = small();
  const Storage storage(c);
  long k = 0;
  for (bool failing = true; failing; ++k) {
    CAPTURE(k);
    bool threw = false;
    allocations.arm(k);
    try {
      Engine engine(c, storage.tensors, with(1));
    } catch (const std::bad_alloc&) {
      threw = true;
    } catch (const Error&) {
      threw = true;
    }
    allocations.disarm();
    failing = allocations.struck();
    REQUIRE(threw == failing);
  }
  REQUIRE(k > 50);
}

TEST_CASE("an allocation that fails in logits, score or hidden_states is an error, and the blocks come back") {
  const Config c = small();
  const Storage storage(c);
  Engine engine(c, storage.tensors, with(1));
  const std::vector<std::int32_t> ids = random_ids(100, 1);
  std::vector<float> out(3 * 100 * c.vocab);
  for (int call = 0; call < 3; ++call) {
    for (long k = 0;; ++k) {
      bool threw = false;
      allocations.arm(k);
      try {
        if (call == 0) engine.logits(ids.data(), 100, 0, out.data(), nullptr);
        if (call == 1) engine.score(ids.data(), 100, out.data(), nullptr);
        if (call == 2) engine.hidden_states(ids.data(), 100, out.data(), nullptr);
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      allocations.disarm();
      REQUIRE(threw == allocations.struck());
      REQUIRE(engine.stats().blocks_used == 0);
      if (!threw) break;
    }
  }
}

std::size_t running_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

TEST_CASE("a thread that cannot be started is an error with its number, and the others end") {
  const Config c = small();
  const Storage storage(c);
  const std::size_t before = running_threads();
  for (long k = 0; k < 5; ++k) {
    CAPTURE(k);
    threads.arm(k);
    bool threw = false;
    try {
      Engine engine(c, storage.tensors, with(5));
    } catch (const Error& e) {
      threw = true;
      REQUIRE(e.kind() == ErrorKind::kEngine);
      REQUIRE(e.item() == "a thread could not be started");
      REQUIRE(e.expected() == "5 threads");
    }
    threads.disarm();
    REQUIRE(threw == threads.struck());
    REQUIRE(threw == (k < 4));  // the caller is the fifth
    REQUIRE(running_threads() == before);
  }
  Engine engine(c, storage.tensors, with(5));
  Engine single(c, storage.tensors, with(1));
  REQUIRE(run(engine, requests()) == run(single, requests()));
}

}  // namespace
