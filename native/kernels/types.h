// What the kernel contracts share: how numbers are stored, which activation, the packed layout of weights and the block
// of the KV cache.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gpt2::kernels {

// kI8 and kI4 are weights with integer arithmetic (matmul_q.h); a cache may be kF32, kBF16 or kI8.
enum class DType { kF32, kBF16, kI8, kI4 };

enum class Activation { kNone, kGeluTanh, kGeluErf, kRelu, kSilu, kQuickGelu, kTanh };

inline constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Lanes over which every instruction set spreads a sum of floats, whatever the width of its registers: so a sum has the
// same order, and the same bits, on all of them.
inline constexpr std::size_t kLanes = 16;

// Packed weights. W [k, n] lies in tiles of kTile outputs; a tile is a run of lines of 64 bytes, and a line holds
// kTile outputs x depth_of(dtype) consecutive k: one float32, two bfloat16, four int8 or eight int4 (of which the low
// nibbles are the first four). One line is one AVX-512 register, two of AVX2, four of NEON, a row of an AMX tile.
// Beyond n and k stand zeros (for int4: codes that mean zero).
inline constexpr std::size_t kTile = 16;
inline constexpr std::size_t kLine = 64;

inline constexpr std::size_t depth_of(DType t) {
  return t == DType::kF32 ? 1 : t == DType::kBF16 ? 2 : t == DType::kI8 ? 4 : 8;
}
// k rounded up to what the layout stores: whole AMX tiles of int8, whole groups of int4.
inline constexpr std::size_t padded_k(DType t, std::size_t k) {
  return t == DType::kI8 ? round_up(k, 64) : t == DType::kI4 ? round_up(k, 128) : round_up(k, depth_of(t));
}
inline constexpr std::size_t tile_bytes(DType t, std::size_t k) { return padded_k(t, k) / depth_of(t) * kLine; }
inline constexpr std::size_t packed_bytes(DType t, std::size_t k, std::size_t n) {
  return round_up(n, kTile) / kTile * tile_bytes(t, k);
}

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

// One element of unpacked float32 or bfloat16 as float32. By memcpy: in a mapped file a tensor may begin at any byte.
inline float load_weight(const void* w, DType dtype, std::size_t i) {
  const auto* bytes = static_cast<const unsigned char*>(w);
  if (dtype == DType::kF32) {
    float out;
    std::memcpy(&out, bytes + i * 4, sizeof out);
    return out;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes + i * 2, sizeof bits);
  return widen_bf16(bits);
}

// Nearest whole number, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

}  // namespace gpt2::kernels
