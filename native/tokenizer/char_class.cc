#include "tokenizer/char_class.h"

#include <algorithm>
#include <iterator>

#include "tokenizer/unicode_ranges.h"

namespace gpt2::tokenizer {
namespace {

template <std::size_t N>
constexpr bool all_below(const CodeRange (&ranges)[N], std::uint32_t size) {
  return ranges[N - 1].last < size;
}

}  // namespace

const CharClasses& CharClasses::get() {
  static const CharClasses classes;
  return classes;
}

CharClasses::CharClasses() : table_(kSize, CharClass::kOther) {
  static_assert(all_below(kLetterRanges, kSize) && all_below(kNumberRanges, kSize) && all_below(kSpaceRanges, kSize),
                "a newer Unicode has letters beyond the table: make kSize larger");
  const auto fill = [this](const auto& ranges, CharClass value) {
    for (const CodeRange& r : ranges) std::fill(table_.begin() + r.first, table_.begin() + r.last + 1, value);
  };
  fill(kLetterRanges, CharClass::kLetter);
  fill(kNumberRanges, CharClass::kNumber);
  fill(kSpaceRanges, CharClass::kSpace);
}

}  // namespace gpt2::tokenizer
