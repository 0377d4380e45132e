// Threads for steps of a millisecond: the workers spin for a short while after each job, then sleep.
//
// Why: one decoded token is dozens of parallel regions of 10-100 microseconds; waking a sleeping thread costs as much
// as the region. A job is cut into `tasks` pieces that the threads take one after the other; which thread takes which
// piece never changes a result, because each piece writes only its own outputs, in an order of summation of its own.
// A call of run() allocates nothing.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace gpt2 {

class ThreadPool {
 public:
  // threads >= 1, the caller's own included. With `cpus`, worker t (1, 2, ...) runs on cpus[t] alone, in a circle; the
  // caller's thread is the caller's business. Throws kEngine when the system refuses a thread, kInvalidRequest for a
  // processor that the process may not use.
  explicit ThreadPool(int threads, const std::vector<int>& cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) for every task in [0, tasks), thread in [0, threads()), and returns when all are done. One
  // caller at a time. `body` must not throw.
  template <typename Body>
  void run(std::size_t tasks, const Body& body) {
    dispatch(tasks, &body,
             [](const void* b, std::size_t task, int thread) { (*static_cast<const Body*>(b))(task, thread); });
  }

 private:
  using Call = void (*)(const void* body, std::size_t task, int thread);
  void dispatch(std::size_t tasks, const void* body, Call call);
  void work(int thread);
  void take_tasks(int thread);
  void pin(const std::vector<int>& cpus);
  void stop();

  std::vector<std::thread> workers_;
  const void* body_ = nullptr;
  Call call_ = nullptr;
  std::size_t tasks_ = 0;
  int process_ = 0;  // the process that started the workers; a fork has none
  bool stop_ = false;

  alignas(64) std::atomic<std::size_t> next_{0};
  alignas(64) std::atomic<unsigned> job_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace gpt2
