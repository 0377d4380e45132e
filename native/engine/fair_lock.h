// A lock that is handed over in the order of asking, so that a long call and the steps of a busy engine take turns.
// Free of system calls when nobody else wants it.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace gpt2 {

class FairLock {
 public:
  void lock() {
    std::unique_lock<std::mutex> guard(mutex_);
    const std::uint64_t mine = next_++;
    turn_.wait(guard, [&] { return served_ == mine; });
  }
  void unlock() {
    bool others;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      others = ++served_ != next_;
    }
    if (others) turn_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  std::uint64_t next_ = 0, served_ = 0;
};

}  // namespace gpt2
