#include "tokenizer/pretokenizer.h"

namespace gpt2::tokenizer {
namespace {

using Byte = std::uint8_t;

struct Char {
  CharClass kind;
  std::uint32_t length;
};

inline Char char_at(const Byte* p, const Byte* end, const CharClasses& classes) {
  const Utf8Char c = decode_utf8(p, end);
  return {classes.of(c.code), c.length};
}

const Byte* run_end(const Byte* p, const Byte* end, CharClass kind, const CharClasses& classes) {
  while (p < end) {
    const Char c = char_at(p, end, classes);
    if (c.kind != kind) break;
    p += c.length;
  }
  return p;
}

// p is at an apostrophe. The length of the contraction there, 0 if there is none.
std::size_t contraction(const Byte* p, const Byte* end) {
  if (end - p < 2) return 0;
  switch (p[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd': return 2;
    case 'r':
    case 'v': return end - p >= 3 && p[2] == 'e' ? 3 : 0;
    case 'l': return end - p >= 3 && p[2] == 'l' ? 3 : 0;
    default: return 0;
  }
}

// p is at white space. A run that something follows leaves its last character to what follows: a space then joins it,
// any other white space is a pre-token of its own.
const Byte* space_end(const Byte* p, const Byte* end, const CharClasses& classes) {
  const Byte* last = p;
  const Byte* q = p;
  while (q < end) {
    const Char c = char_at(q, end, classes);
    if (c.kind != CharClass::kSpace) return last == p ? q : last;
    last = q;
    q += c.length;
  }
  return q;
}

}  // namespace

const Byte* pretoken_end(const Byte* p, const Byte* end, const CharClasses& classes) {
  if (*p == '\'') {
    if (const std::size_t length = contraction(p, end)) return p + length;
  }
  Char first = char_at(p, end, classes);
  const Byte* q = p;
  if (*p == ' ' && end - p > 1) {
    const Char second = char_at(p + 1, end, classes);
    if (second.kind != CharClass::kSpace) {
      first = second;
      q = p + 1;
    }
  }
  if (first.kind == CharClass::kSpace) return space_end(p, end, classes);
  return run_end(q + first.length, end, first.kind, classes);
}

PreTokenizer::PreTokenizer(const Byte* text, std::size_t size)
    : text_(text), end_(text + size), at_(text), classes_(CharClasses::get()) {}

std::size_t PreTokenizer::next(std::size_t* ends, std::size_t capacity) {
  std::size_t count = 0;
  while (count < capacity && at_ < end_) {
    at_ = pretoken_end(at_, end_, classes_);
    ends[count++] = static_cast<std::size_t>(at_ - text_);
  }
  return count;
}

}  // namespace gpt2::tokenizer
