// Philox4x32-10: random numbers as a function of a key and a counter (Salmon et al. 2011, "Parallel random numbers:
// as easy as 1, 2, 3", SC'11, doi:10.1145/2063384.2063405).
//
// Why: a draw must depend on (seed, alternative, position) and on nothing else, so that a request gets the same tokens
// alone, in a batch, streamed, restarted or on more threads. A generator with a state could not promise that.
//
//   key      the 64-bit seed, low word first
//   counter  position (64 bits, low word first), alternative (32 bits), draw (which of one position; mostly 0)
//
// Not the Philox of numpy.random, which is Philox4x64 and gives other numbers.
#pragma once
#include <array>
#include <cstdint>

namespace gpt2 {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  // The multipliers and the Weyl increments (golden ratio, sqrt(3) - 1) of the paper, section 4.3.
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

// A uniform double in [0, 1): the low 64 bits of the block, of which the upper 53 are used.
constexpr double philox_uniform(std::uint64_t seed, std::uint32_t alternative, std::uint64_t position,
                                std::uint32_t draw = 0) {
  const PhiloxCounter block = philox4x32_10(
      {static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), alternative, draw},
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t bits = (static_cast<std::uint64_t>(block[1]) << 32) | block[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace gpt2
