// A growing array of token ids that does not write zeros into memory that is about to be overwritten, and that can be
// handed over without a copy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace gpt2::tokenizer {

class IdBuffer {
 public:
  IdBuffer() = default;
  IdBuffer(IdBuffer&& other) noexcept { *this = std::move(other); }
  IdBuffer& operator=(IdBuffer&& other) noexcept {
    ids_ = std::move(other.ids_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  std::size_t size() const { return size_; }
  const std::int32_t* data() const { return ids_.get(); }
  std::int32_t operator[](std::size_t i) const { return ids_.get()[i]; }

  // Room for `more` further ids; returns where they go. commit() says how many were written.
  std::int32_t* reserve(std::size_t more) {
    if (capacity_ - size_ < more) grow(more);
    return ids_.get() + size_;
  }
  void commit(std::size_t count) { size_ += count; }

  void push_back(std::int32_t id) {
    *reserve(1) = id;
    ++size_;
  }
  void append(const IdBuffer& other) {
    if (other.size_) std::memcpy(reserve(other.size_), other.data(), other.size_ * sizeof(std::int32_t));
    size_ += other.size_;
  }
  void clear() { size_ = 0; }

  // The array, to be freed with std::free(); the buffer is empty afterwards. nullptr where nothing was ever reserved.
  std::int32_t* release() {
    size_ = capacity_ = 0;
    return ids_.release();
  }

 private:
  struct Free {
    void operator()(std::int32_t* p) const { std::free(p); }
  };

  void grow(std::size_t more) {
    std::size_t wanted = capacity_ + capacity_ / 2;
    if (wanted < size_ + more) wanted = size_ + more;
    if (wanted < 16) wanted = 16;
    auto* grown = static_cast<std::int32_t*>(std::realloc(ids_.get(), wanted * sizeof(std::int32_t)));
    if (grown == nullptr) throw std::bad_alloc();
    static_cast<void>(ids_.release());
    ids_.reset(grown);
    capacity_ = wanted;
  }

  std::unique_ptr<std::int32_t, Free> ids_;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace gpt2::tokenizer
