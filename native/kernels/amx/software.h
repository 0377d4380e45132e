// A tile unit in plain C++, as Intel's manual defines the instructions (Software Developer's Manual, volume 2:
// TILELOADD, TDPBUSD, TDPBF16PS): so that the blocking of tiles.h is tested on machines that have no AMX. Whatever the
// hardware would refuse (#UD) throws std::logic_error.
#pragma once
#include <stdexcept>

#include "kernels/amx/tiles.h"
#include "kernels/generic/flushed.h"

namespace gpt2::kernels::amx {
namespace {

using generic::flushed_fma;

class Software {
 public:
  void configure(const TileConfig& c) {
    bool good = c.palette == 1 && c.start_row == 0;
    for (std::size_t t = 0; t < 16; ++t) {
      good = good && c.rows[t] <= kRows && c.bytes[t] <= kBytes && (c.rows[t] == 0) == (c.bytes[t] == 0);
      good = good && (t < 8 || c.rows[t] == 0);
    }
    for (const std::uint8_t r : c.reserved) good = good && r == 0;
    if (!good) throw std::logic_error("a tile configuration that LDTILECFG refuses");
    config_ = c;
    configured_ = true;
    std::memset(tile_, 0, sizeof tile_);
  }
  void release() { configured_ = false; }

  template <int T>
  void zero() {
    used(T);
    std::memset(tile_[T], 0, sizeof tile_[T]);
  }
  template <int T>
  void load(const std::byte* p, std::size_t stride) {
    used(T);
    std::memset(tile_[T], 0, sizeof tile_[T]);
    for (std::size_t r = 0; r < config_.rows[T]; ++r) std::memcpy(tile_[T][r], p + r * stride, config_.bytes[T]);
  }
  template <int T>
  void store(std::byte* p, std::size_t stride) {
    used(T);
    for (std::size_t r = 0; r < config_.rows[T]; ++r) std::memcpy(p + r * stride, tile_[T][r], config_.bytes[T]);
  }

  template <int C, int A, int B>
  void dot_bytes() {
    fit(C, A, B);
    for (std::size_t m = 0; m < config_.rows[C]; ++m) {
      for (std::size_t k = 0; k < config_.bytes[A] / 4u; ++k) {
        for (std::size_t n = 0; n < config_.bytes[C] / 4u; ++n) {
          auto sum = get<std::uint32_t>(C, m, n);  // wraps, as the instruction does
          for (std::size_t i = 0; i < 4; ++i) {
            const std::int32_t product = get<std::uint8_t>(A, m, 4 * k + i) * get<std::int8_t>(B, k, 4 * n + i);
            sum += static_cast<std::uint32_t>(product);
          }
          put(C, m, n, sum);
        }
      }
    }
  }

  // Two chains of fused multiply-adds from zero, over the even and the odd elements; their sum is added to C.
  template <int C, int A, int B>
  void dot_pairs() {
    fit(C, A, B);
    for (std::size_t m = 0; m < config_.rows[C]; ++m) {
      for (std::size_t n = 0; n < config_.bytes[C] / 4u; ++n) {
        float even = 0.0f, odd = 0.0f;
        for (std::size_t k = 0; k < config_.bytes[A] / 4u; ++k) {
          even = flushed_fma(widen(A, m, 2 * k), widen(B, k, 2 * n), even);
          odd = flushed_fma(widen(A, m, 2 * k + 1), widen(B, k, 2 * n + 1), odd);
        }
        put(C, m, n, flushed_fma(1.0f, get<float>(C, m, n), flushed_fma(1.0f, even, odd)));
      }
    }
  }

 private:
  void used(int t) const {
    if (!configured_ || config_.rows[t] == 0) throw std::logic_error("a tile that is not configured");
  }
  void fit(int c, int a, int b) const {
    used(c), used(a), used(b);
    const bool good = c != a && c != b && a != b && config_.rows[c] == config_.rows[a] &&
                      config_.bytes[c] == config_.bytes[b] && config_.bytes[a] == 4 * config_.rows[b];
    if (!good) throw std::logic_error("tiles whose shapes do not fit");
  }
  template <class T>
  T get(int t, std::size_t row, std::size_t i) const {
    T out;
    std::memcpy(&out, tile_[t][row] + i * sizeof(T), sizeof out);
    return out;
  }
  template <class T>
  void put(int t, std::size_t row, std::size_t i, T value) {
    std::memcpy(tile_[t][row] + i * sizeof(T), &value, sizeof value);
  }
  float widen(int t, std::size_t row, std::size_t i) const {
    const std::uint32_t bits = std::uint32_t{get<std::uint16_t>(t, row, i)} << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
  }

  TileConfig config_;
  bool configured_ = false;
  std::byte tile_[8][kRows][kBytes] = {};
};

}  // namespace
}  // namespace gpt2::kernels::amx
