// What the kernel contracts share: how a weight is stored, which activation, and the block of the KV cache.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gpt2::kernels {

enum class DType { kF32, kBF16 };

inline std::size_t dtype_size(DType t) { return t == DType::kF32 ? 4 : 2; }

enum class Activation { kNone, kGeluTanh, kGeluErf, kRelu, kSilu, kQuickGelu, kTanh };

// Positions in one block of the KV cache. 64 floats are four AVX-512 registers: one register tile of scores.
inline constexpr std::size_t kBlock = 64;

// bfloat16 is the upper half of a float32, so widening is exact.
inline float widen_bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}

// Round to nearest, ties to even; NaN stays NaN.
inline std::uint16_t narrow_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// One element of a weight as float32. By memcpy: in a mapped file a tensor may begin at any byte.
inline float load_weight(const void* w, DType dtype, std::size_t i) {
  const auto* at = static_cast<const unsigned char*>(w) + i * dtype_size(dtype);
  if (dtype == DType::kF32) {
    float out;
    std::memcpy(&out, at, sizeof out);
    return out;
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return widen_bf16(bits);
}

}  // namespace gpt2::kernels
