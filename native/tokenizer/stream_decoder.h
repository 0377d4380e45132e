// Tokens to text while they arrive: a token may hold half a character, and half a character must not be shown.
#pragma once
#include <string>
#include <string_view>

namespace gpt2::tokenizer {

// Gives what Python's incremental decoder gives: bytes.decode("utf-8", errors="replace"), cut where it is certain. What
// can be no character is U+FFFD, one for each longest beginning of a character that fails (Unicode 15, section 3.9,
// "best practice for using U+FFFD"). Holds at most three bytes.
class Utf8Stream {
 public:
  // The text that is certain now, valid UTF-8; may be empty.
  std::string push(std::string_view bytes);
  // The rest: an unfinished character is one U+FFFD. The stream is as new afterwards.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace gpt2::tokenizer
