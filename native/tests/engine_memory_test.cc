// The k-th allocation fails, for every k (SQLite's out-of-memory loop): a clean error, and an engine that then gives
// the answers that it always gives. Its own program, because it replaces the allocator.
#include <doctest/doctest.h>
#include <malloc.h>

#include <atomic>
#include <new>

#include "base/errors.h"
#include "tests/small_model.h"

namespace {

std::atomic<long> allocations_left{-1};  // before one fails; negative: none does
std::atomic<long> failed{0};

bool fails() {
  if (allocations_left.load(std::memory_order_relaxed) < 0) return false;
  if (allocations_left.fetch_sub(1) != 0) return false;
  ++failed;
  return true;
}

void* allocate(std::size_t alignment, std::size_t size) {
  if (fails()) return nullptr;
  return memalign(alignment, size == 0 ? 1 : size);
}

}  // namespace

// Replaces the allocators that the engine uses. GCC cannot see that both ends belong together.
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

TEST_CASE("an allocation that fails while generating is an error, and the engine goes on") {
  const Config c = small();
  const Storage storage(c);
  long k = 0;
  for (long quiet = 0; quiet < 3; ++k) {
    CAPTURE(k);
    Engine engine(c, storage.tensors, with(1));
    const std::vector<Answer> expected = k == 0 ? run(engine, requests()) : std::vector<Answer>();
    failed = 0;
    allocations_left = k;
    const int errors = attempt(engine);
    allocations_left = -1;
    quiet = failed == 0 ? quiet + 1 : 0;  // the attempt needs no more than k allocations
    REQUIRE((errors > 0) == (failed > 0));
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
    failed = 0;
    bool threw = false;
    allocations_left = k;
    try {
      Engine engine(c, storage.tensors, with(1));
    } catch (const std::bad_alloc&) {
      threw = true;
    } catch (const Error&) {
      threw = true;
    }
    allocations_left = -1;
    failing = failed > 0;
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
      failed = 0;
      bool threw = false;
      allocations_left = k;
      try {
        if (call == 0) engine.logits(ids.data(), 100, 0, out.data(), nullptr);
        if (call == 1) engine.score(ids.data(), 100, out.data(), nullptr);
        if (call == 2) engine.hidden_states(ids.data(), 100, out.data(), nullptr);
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      allocations_left = -1;
      REQUIRE(threw == (failed > 0));
      REQUIRE(engine.stats().blocks_used == 0);
      if (!threw) break;
    }
  }
}

}  // namespace
