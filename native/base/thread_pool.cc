#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <system_error>

#include "base/errors.h"

namespace gpt2 {
namespace {

// About 50 microseconds of spinning: longer than the gap between two parallel regions of a step, far shorter than
// what a person or a power meter would notice.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads, const std::vector<int>& cpus) : process_(static_cast<int>(getpid())) {
  if (threads < 1) {
    throw Error(ErrorKind::kInvalidRequest, "threads", std::to_string(threads), "at least 1");
  }
  try {
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { work(t); });
    if (!cpus.empty()) pin(cpus);
  } catch (const std::system_error& e) {
    stop();
    throw Error(ErrorKind::kEngine, "a thread could not be started", e.what(), std::to_string(threads) + " threads",
                "fewer threads");
  } catch (...) {
    stop();
    throw;
  }
}

void ThreadPool::pin(const std::vector<int>& cpus) {
  for (std::size_t t = 0; t < workers_.size(); ++t) {
    const int cpu = cpus[(t + 1) % cpus.size()];
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<std::size_t>(cpu), &set);
    if (pthread_setaffinity_np(workers_[t].native_handle(), sizeof set, &set) == 0) continue;
    throw Error(ErrorKind::kInvalidRequest, "cpus", std::to_string(cpu), "processors that this process may use");
  }
}

ThreadPool::~ThreadPool() {
  if (process_ == static_cast<int>(getpid())) {
    stop();
  } else {
    for (std::thread& w : workers_) w.detach();  // after a fork there is no thread behind them to join
  }
}

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    job_.fetch_add(1, std::memory_order_seq_cst);
  }
  wake_.notify_all();
  for (std::thread& w : workers_) w.join();
  workers_.clear();
}

void ThreadPool::take_tasks(int thread) {
  for (std::size_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) call_(body_, task, thread);
}

void ThreadPool::dispatch(std::size_t tasks, const void* body, Call call) {
  if (workers_.empty() || tasks <= 1) {
    for (std::size_t task = 0; task < tasks; ++task) call(body, task, 0);
    return;
  }
  if (process_ != static_cast<int>(getpid())) {
    throw Error(ErrorKind::kEngine, "the engine was used after fork()", "a child process", "the process that loaded it",
                "load the model again in the child");
  }
  body_ = body;
  call_ = call;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  // seq_cst on job_ and sleepers_ (here and in work) makes one of the two sides see the other: either the worker sees
  // the new job before it sleeps, or we see that it sleeps and wake it.
  job_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  take_tasks(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();  // fewer processors than threads: let the others finish
    }
  }
}

void ThreadPool::work(int thread) {
  unsigned seen = 0;
  for (;;) {
    int spins = 0;
    while (job_.load(std::memory_order_acquire) == seen && spins < kSpins) {
      pause();
      ++spins;
    }
    if (job_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return job_.load(std::memory_order_seq_cst) != seen; });
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
    ++seen;
    if (stop_) return;
    take_tasks(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace gpt2
