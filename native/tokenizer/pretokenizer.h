// Cut a text into pre-tokens as GPT-2 does. BPE never merges across their borders.
//
// The rule is that of the regular expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// as a state machine over bytes: every byte belongs to exactly one pre-token, so the cut is lossless. A byte that is no
// valid UTF-8 is a character of its own of class "other". Time is linear: no byte is looked at more than a few times.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tokenizer/char_class.h"

namespace gpt2::tokenizer {

class PreTokenizer {
 public:
  // The text must outlive the object.
  PreTokenizer(const std::uint8_t* text, std::size_t size);

  // Writes the ends (offsets from the start of the text) of the next at most `capacity` >= 1 pre-tokens; each begins
  // where the one before it ended. Returns their number; 0 when the text is used up.
  std::size_t next(std::size_t* ends, std::size_t capacity);

 private:
  const std::uint8_t* text_;
  const std::uint8_t* end_;
  const std::uint8_t* at_;
  const CharClasses& classes_;
};

// The end of the pre-token that begins at p < end. The plain form, which PreTokenizer must equal.
const std::uint8_t* pretoken_end(const std::uint8_t* p, const std::uint8_t* end, const CharClasses& classes);

}  // namespace gpt2::tokenizer
