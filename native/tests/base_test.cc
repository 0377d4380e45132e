// base/: the instruction sets offered, and a thread pool that does every task once, however short and however many.
#include <doctest/doctest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "base/errors.h"
#include "base/thread_pool.h"

using gpt2::Error;
using gpt2::ErrorKind;
using gpt2::ThreadPool;

TEST_CASE("generic code is always there and comes first; auto takes the last") {
  const std::vector<gpt2::Isa> isas = gpt2::available_isas();
  REQUIRE(!isas.empty());
  CHECK(isas.front() == gpt2::Isa::kGeneric);
  CHECK(std::is_sorted(isas.begin(), isas.end()));
  CHECK(gpt2::choose_isa("") == isas.back());
  CHECK(gpt2::choose_isa("auto") == isas.back());
  for (gpt2::Isa isa : isas) CHECK(gpt2::choose_isa(gpt2::isa_name(isa)) == isa);
}

TEST_CASE("sets that round activations run by name; auto takes AVX-512 BF16 where rounding is allowed, never AMX") {
  const std::vector<gpt2::Isa> isas = gpt2::available_isas(), rounding = gpt2::rounding_isas();
  for (gpt2::Isa isa : rounding) {
    CHECK(std::count(isas.begin(), isas.end(), isa) == 0);
    CHECK(gpt2::choose_isa(gpt2::isa_name(isa), false) == isa);
  }
  const gpt2::Isa chosen = gpt2::choose_isa("auto", true);
  CHECK((chosen == isas.back() || chosen == gpt2::Isa::kAvx512Bf16));
  CHECK((chosen == isas.back() || std::count(rounding.begin(), rounding.end(), chosen) == 1));
  CHECK(gpt2::choose_isa(gpt2::isa_name(isas.back()), true) == isas.back());  // a name is a name
}

TEST_CASE("an instruction set that does not exist is an engine error that names it") {
  try {
    gpt2::choose_isa("sse9");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kEngine);
    CHECK(e.got() == "'sse9'");
    CHECK(e.expected().find("generic") != std::string::npos);
  }
}

TEST_CASE("every task runs once, on a thread of the pool, and run() waits for it") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (std::size_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<int> runs(tasks, 0);  // not atomic: each task writes its own
      std::atomic<int> strangers{0};
      pool.run(tasks, [&](std::size_t task, int thread) {
        ++runs[task];
        if (thread < 0 || thread >= threads) ++strangers;
      });
      CHECK(std::count(runs.begin(), runs.end(), 1) == static_cast<std::ptrdiff_t>(tasks));
      CHECK(strangers == 0);
    }
  }
}

TEST_CASE("many short jobs in a row, then a pause that lets the workers sleep, then more") {
  ThreadPool pool(4);
  std::vector<long> sums(4, 0);
  for (int round = 0; round < 3; ++round) {
    for (int job = 0; job < 2000; ++job) {
      pool.run(4, [&](std::size_t task, int) { sums[task] += static_cast<long>(task) + 1; });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK(sums == std::vector<long>{6000, 12000, 18000, 24000});
}

TEST_CASE("pools are made and destroyed, used or not") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool idle(3);
    ThreadPool used(2);
    std::atomic<int> count{0};
    used.run(5, [&](std::size_t, int) { ++count; });
    CHECK(count == 5);
  }
}

TEST_CASE("workers run on the processors that they are given, and on no others") {
  cpu_set_t mine;
  REQUIRE(sched_getaffinity(0, sizeof mine, &mine) == 0);
  std::vector<int> cpus;
  for (int c = 0; c < CPU_SETSIZE; ++c) {
    if (CPU_ISSET(static_cast<std::size_t>(c), &mine)) cpus.push_back(c);
  }
  const int last = cpus.back();
  ThreadPool pool(3, {last});
  std::atomic<int> wrong{0};
  for (int round = 0; round < 20; ++round) {
    pool.run(64, [&](std::size_t, int thread) {
      if (thread > 0 && sched_getcpu() != last) ++wrong;
    });
  }
  CHECK(wrong == 0);
  for (const int bad : {-1, CPU_SETSIZE, CPU_SETSIZE - 1}) CHECK_THROWS_AS(ThreadPool(2, {bad}), Error);
}

TEST_CASE("fewer than one thread is refused") {
  for (int threads : {0, -1}) CHECK_THROWS_AS(ThreadPool{threads}, Error);
}
