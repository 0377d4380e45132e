// The four classes of characters that GPT-2's pre-tokenizer tells apart, for every code point.
#pragma once
#include <cstdint>
#include <vector>

#include "tokenizer/utf8.h"

namespace gpt2::tokenizer {

enum class CharClass : std::uint8_t { kOther, kLetter, kNumber, kSpace };

// One byte per code point up to the last letter of Unicode (208 KB, of which a text touches a few pages).
class CharClasses {
 public:
  // The table, made on first use from unicode_ranges.h; thread-safe.
  static const CharClasses& get();

  // code: a code point or kInvalidByte, which is kOther.
  CharClass of(std::uint32_t code) const { return code < kSize ? table_[code] : CharClass::kOther; }

 private:
  static constexpr std::uint32_t kSize = 0x34000;
  CharClasses();
  std::vector<CharClass> table_;
};

}  // namespace gpt2::tokenizer
