// A hash map from a pair of token ids to a small value: open addressing, one probe in the common case.
//
// Why not std::unordered_map: BPE asks it for every pair of neighbours, and a node per entry would make each question a
// cache miss. Keys are never removed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gpt2::tokenizer {

inline constexpr std::uint64_t pair_key(std::uint32_t left, std::uint32_t right) {
  return (static_cast<std::uint64_t>(left) << 32) | right;
}

template <typename Value>
class PairMap {
 public:
  // The pair (2^32 - 1, 2^32 - 1) is not a key: no vocabulary has such ids.
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  explicit PairMap(std::size_t expected = 8) { resize(expected); }

  std::size_t size() const { return count_; }

  // nullptr where the key is not there.
  const Value* find(std::uint64_t key) const {
    for (std::size_t i = slot(key);; i = (i + 1) & mask_) {
      if (entries_[i].key == key) return &entries_[i].value;
      if (entries_[i].key == kEmpty) return nullptr;
    }
  }

  // The value of the key, a new one where it was not there. Valid until the next call.
  Value& operator[](std::uint64_t key) {
    if (2 * (count_ + 1) > entries_.size()) grow();
    std::size_t i = slot(key);
    while (entries_[i].key != key) {
      if (entries_[i].key == kEmpty) {
        entries_[i].key = key;
        ++count_;
        break;
      }
      i = (i + 1) & mask_;
    }
    return entries_[i].value;
  }

  template <typename Visit>
  void for_each(const Visit& visit) {
    for (Entry& e : entries_) {
      if (e.key != kEmpty) visit(e.key, e.value);
    }
  }

  void clear() {
    for (Entry& e : entries_) e = Entry{};
    count_ = 0;
  }

 private:
  struct Entry {
    std::uint64_t key = kEmpty;
    Value value{};
  };

  // Fibonacci hashing: the top bits of a product with 2^64 / golden ratio.
  std::size_t slot(std::uint64_t key) const {
    return static_cast<std::size_t>(((key ^ (key >> 29)) * 0x9E3779B97F4A7C15u) >> shift_);
  }

  void resize(std::size_t expected) {
    shift_ = 61;
    while ((std::size_t{1} << (64 - shift_)) < 2 * expected) --shift_;
    entries_.assign(std::size_t{1} << (64 - shift_), Entry{});
    mask_ = entries_.size() - 1;
  }

  void grow() {
    std::vector<Entry> old = std::move(entries_);
    resize(old.size());
    for (Entry& e : old) {
      if (e.key == kEmpty) continue;
      std::size_t i = slot(e.key);
      while (entries_[i].key != kEmpty) i = (i + 1) & mask_;
      entries_[i] = std::move(e);
    }
  }

  std::vector<Entry> entries_;
  std::size_t mask_ = 0, count_ = 0;
  unsigned shift_ = 61;
};

}  // namespace gpt2::tokenizer
