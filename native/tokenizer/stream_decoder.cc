#include "tokenizer/stream_decoder.h"

#include <cstdint>

#include "tokenizer/utf8.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// How many bytes from p on are the beginning of a character, or the whole of it: 0 when none can start here.
std::size_t longest_beginning(const std::uint8_t* p, const std::uint8_t* end) {
  const std::size_t length = utf8_length(p[0]);
  std::size_t n = length > 0 ? 1 : 0;
  while (n > 0 && n < length && p + n < end) {
    const bool fits = n == 1 ? utf8_second_ok(p[0], p[1]) : (p[n] & 0xC0) == 0x80;
    if (!fits) break;
    ++n;
  }
  return n;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  std::string joined = std::move(pending_);
  pending_.clear();
  joined += bytes;
  std::string out;
  const auto* p = reinterpret_cast<const std::uint8_t*>(joined.data());
  const auto* end = p + joined.size();
  while (p < end) {
    const std::size_t n = longest_beginning(p, end);
    if (n > 0 && n == utf8_length(p[0])) {
      out.append(reinterpret_cast<const char*>(p), n);
    } else if (n > 0 && p + n == end) {
      pending_.assign(reinterpret_cast<const char*>(p), n);
    } else {
      out += kReplacement;
    }
    p += n > 0 ? n : 1;
  }
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = pending_.empty() ? std::string() : std::string(kReplacement);
  pending_.clear();
  return out;
}

}  // namespace gpt2::tokenizer
