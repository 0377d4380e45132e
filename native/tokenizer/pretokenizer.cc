#include "tokenizer/pretokenizer.h"

#include <bit>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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
inline std::size_t contraction(const Byte* p, const Byte* end) {
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

// The classes of 64 bytes, one bit each; bytes above 0x7F are in `beyond` and in no class.
struct Block {
  std::uint64_t letters, numbers, spaces, blanks, apostrophes, beyond;
};
constexpr std::size_t kBlock = 64;

#if defined(__SSE2__)
// Where lowest <= byte <= highest, both below 0x80: SSE2 compares signed bytes, so bytes above 0x7F are below all.
inline __m128i between(__m128i bytes, char lowest, char highest) {
  return _mm_and_si128(_mm_cmpgt_epi8(bytes, _mm_set1_epi8(static_cast<char>(lowest - 1))),
                       _mm_cmplt_epi8(bytes, _mm_set1_epi8(static_cast<char>(highest + 1))));
}

Block classify(const Byte* p) {
  Block block{};
  for (unsigned part = 0; part < 4; ++part) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part));
    const auto put = [part](std::uint64_t& mask, __m128i where) {
      mask |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(where))) << (16 * part);
    };
    const __m128i blank = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '));
    put(block.letters, between(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), 'a', 'z'));
    put(block.numbers, between(bytes, '0', '9'));
    put(block.blanks, blank);
    put(block.spaces, _mm_or_si128(blank, between(bytes, '\t', '\r')));
    put(block.apostrophes, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\'')));
    put(block.beyond, bytes);  // the sign bit
  }
  return block;
}
#else
Block classify(const Byte* p) {
  Block block{};
  for (unsigned i = 0; i < kBlock; ++i) {
    const std::uint64_t bit = std::uint64_t{1} << i;
    const unsigned c = p[i], small = c | 0x20u;
    if (small >= 'a' && small <= 'z') block.letters |= bit;
    if (c >= '0' && c <= '9') block.numbers |= bit;
    if (c == ' ') block.blanks |= bit;
    if (c == ' ' || (c >= '\t' && c <= '\r')) block.spaces |= bit;
    if (c == '\'') block.apostrophes |= bit;
    if (c >= 0x80) block.beyond |= bit;
  }
  return block;
}
#endif

// Bit i > 0: a pre-token begins at p[i], given that one begins at p[0]; certain for i <= valid - 2, where `valid` is
// the number of bytes before the first that is not ASCII.
std::uint64_t starts_in(const Block& block, const Byte* p) {
  const std::uint64_t others = ~(block.letters | block.numbers | block.spaces | block.beyond);
  const auto first_of_run = [](std::uint64_t kind) { return kind & ~(kind << 1); };
  const std::uint64_t changes = first_of_run(block.letters) | first_of_run(block.numbers) | first_of_run(others);
  // A run of white space begins a pre-token; its last character begins one, too, if something else follows. A blank
  // there takes the run that follows with it.
  std::uint64_t starts =
      (changes & ~(block.blanks << 1)) | first_of_run(block.spaces) | (block.spaces & ~(block.spaces >> 1));
  std::uint64_t apostrophes = block.apostrophes & (starts | 1);
  while (apostrophes != 0) {
    const int at = std::countr_zero(apostrophes);
    apostrophes &= apostrophes - 1;
    const std::size_t length = contraction(p + at, p + kBlock);
    if (length == 0) continue;
    starts &= ~((std::uint64_t{1} << at) << 1);
    starts |= (std::uint64_t{1} << at) << length;
  }
  return starts & ~std::uint64_t{1};
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
    // A block of ASCII at a time: each block begins where a pre-token does, so nothing is carried from one to the next.
    if (capacity - count >= kBlock && static_cast<std::size_t>(end_ - at_) >= kBlock && at_[0] < 0x80 &&
        at_[1] < 0x80) {
      const Block block = classify(at_);
      const int valid = std::countr_zero(block.beyond);
      std::uint64_t starts = starts_in(block, at_);
      if (valid < 64) starts &= ((std::uint64_t{1} << valid) - 1) >> 1;
      starts &= ~std::uint64_t{0} >> 1;
      if (starts != 0) {
        const auto base = static_cast<std::size_t>(at_ - text_);
        while (starts != 0) {
          ends[count++] = base + static_cast<std::size_t>(std::countr_zero(starts));
          starts &= starts - 1;
        }
        at_ = text_ + ends[count - 1];
        continue;
      }
    }
    at_ = pretoken_end(at_, end_, classes_);
    ends[count++] = static_cast<std::size_t>(at_ - text_);
  }
  return count;
}

}  // namespace gpt2::tokenizer
