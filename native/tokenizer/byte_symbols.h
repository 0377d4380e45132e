// The 256 printable characters that stand for bytes in the files of a byte-level BPE, and their order.
//
// Why: GPT-2's vocabulary files are text, so each byte is written as a character that prints: '!'..'~', U+00A1..U+00AC
// and U+00AE..U+00FF stand for themselves, the remaining 68 bytes, ascending, are written U+0100, U+0101, ... (a space
// is U+0120). The ids 0..255 of a vocabulary that we train are the bytes in the order of their characters.
#pragma once
#include <array>
#include <cstdint>

namespace gpt2::tokenizer {

struct ByteSymbols {
  std::array<std::uint16_t, 256> symbol{};  // byte -> code point
  std::array<std::int16_t, 324> byte_of{};  // code point -> byte, or -1
  std::array<std::uint8_t, 256> by_rank{};  // position in the order -> byte
  std::array<std::uint8_t, 256> rank{};     // byte -> position in the order

  constexpr ByteSymbols() {
    for (auto& b : byte_of) b = -1;
    unsigned spare = 256, count = 0;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      symbol[byte] = static_cast<std::uint16_t>(prints ? byte : spare++);
      byte_of[symbol[byte]] = static_cast<std::int16_t>(byte);
    }
    for (unsigned code = 0; code < byte_of.size(); ++code) {
      if (byte_of[code] < 0) continue;
      by_rank[count] = static_cast<std::uint8_t>(byte_of[code]);
      rank[by_rank[count]] = static_cast<std::uint8_t>(count);
      ++count;
    }
  }

  // The byte that a code point stands for, or -1.
  constexpr int byte(std::uint32_t code) const { return code < byte_of.size() ? byte_of[code] : -1; }
};

inline constexpr ByteSymbols kByteSymbols{};

}  // namespace gpt2::tokenizer
