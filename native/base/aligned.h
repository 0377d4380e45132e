// Memory on a cache line boundary: bytes as they come, or floats that begin as zeros. Throw std::bad_alloc.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace gpt2 {

// Large ones lie on whole huge pages and ask for them: weights that are read from end to end for every token are read
// about a tenth faster when the address translation does not have to be looked up every 4 KiB.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(std::size_t count) : size_(count) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20, kLarge = 4 * kHugePage;
    const std::size_t alignment = count >= kLarge ? kHugePage : 64;
    if (count > SIZE_MAX - alignment) throw std::bad_alloc();
    const std::size_t bytes = (count + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, bytes == 0 ? alignment : bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (count >= kLarge) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // advice: a refusal costs only speed
#endif
  }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::size_t size_ = 0;
};

class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(std::size_t count) : bytes_(checked(count)), size_(count) {
    std::memset(bytes_.data(), 0, count * sizeof(float));
  }

  float* data() { return reinterpret_cast<float*>(bytes_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(bytes_.data()); }
  std::size_t size() const { return size_; }

 private:
  static std::size_t checked(std::size_t count) {
    if (count > SIZE_MAX / sizeof(float)) throw std::bad_alloc();
    return count * sizeof(float);
  }
  AlignedBytes bytes_;
  std::size_t size_ = 0;
};

}  // namespace gpt2
