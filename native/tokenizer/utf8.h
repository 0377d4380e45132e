// UTF-8, one character at a time, strictly (no overlong forms, no surrogates, nothing above U+10FFFF).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace gpt2::tokenizer {

// What decode_utf8() reports for a byte that belongs to no valid character: a code point that no class knows.
inline constexpr std::uint32_t kInvalidByte = 0xFFFFFFFFu;

struct Utf8Char {
  std::uint32_t code;    // code point, or kInvalidByte
  std::uint32_t length;  // bytes; 1 for an invalid byte
};

// The bytes a character that starts with `lead` has, 0 where no character starts so.
constexpr std::uint32_t utf8_length(std::uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

// Whether `second` may follow `lead`: the only place where overlong forms and surrogates can be told.
constexpr bool utf8_second_ok(std::uint8_t lead, std::uint8_t second) {
  switch (lead) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return (second & 0xC0) == 0x80;
  }
}

// The character at p. Requires p < end.
inline Utf8Char decode_utf8(const std::uint8_t* p, const std::uint8_t* end) {
  const std::uint8_t lead = p[0];
  if (lead < 0x80) return {lead, 1};
  const std::uint32_t length = utf8_length(lead);
  if (length == 0 || static_cast<std::size_t>(end - p) < length || !utf8_second_ok(lead, p[1])) {
    return {kInvalidByte, 1};
  }
  if (length == 2) return {((lead & 0x1Fu) << 6) | (p[1] & 0x3Fu), 2};
  if ((p[2] & 0xC0) != 0x80) return {kInvalidByte, 1};
  const std::uint32_t upper = ((p[1] & 0x3Fu) << 6) | (p[2] & 0x3Fu);
  if (length == 3) return {((lead & 0x0Fu) << 12) | upper, 3};
  if ((p[3] & 0xC0) != 0x80) return {kInvalidByte, 1};
  return {((lead & 0x07u) << 18) | (upper << 6) | (p[3] & 0x3Fu), 4};
}

// The length of the longest prefix of [p, p + n) that is whole characters.
inline std::size_t utf8_prefix(const std::uint8_t* p, std::size_t n) {
  constexpr std::uint64_t kNotAscii = 0x8080808080808080u;
  std::size_t at = 0;
  while (at < n) {
    std::uint64_t word = 0;
    for (; n - at >= sizeof word; at += sizeof word) {
      std::memcpy(&word, p + at, sizeof word);
      if ((word & kNotAscii) != 0) break;
    }
    if (at == n) break;
    const Utf8Char c = decode_utf8(p + at, p + n);
    if (c.code == kInvalidByte) break;
    at += c.length;
  }
  return at;
}

inline void append_utf8(std::uint32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

}  // namespace gpt2::tokenizer
