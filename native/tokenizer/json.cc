#include "tokenizer/json.h"

#include <charconv>
#include <cstring>

#include "base/errors.h"
#include "tokenizer/utf8.h"

namespace gpt2::tokenizer {

std::string JsonReader::where_at(std::size_t at) const {
  std::size_t line = 1;
  for (std::size_t i = 0; i < at && i < text_.size(); ++i) line += text_[i] == '\n';
  return std::string(source_) + ": line " + std::to_string(line) + ", byte " + std::to_string(at);
}

std::string JsonReader::got_here() const {
  if (at_ >= text_.size()) return "the end of the file";
  const auto c = static_cast<unsigned char>(text_[at_]);
  if (c > 0x20 && c < 0x7F) return std::string("'") + static_cast<char>(c) + "'";
  constexpr char kHex[] = "0123456789abcdef";
  return std::string("byte 0x") + kHex[c >> 4] + kHex[c & 15];
}

void JsonReader::fail(const std::string& what, const std::string& got, const std::string& expected) const {
  throw Error(ErrorKind::kTokenizer, where() + ": " + what, got, expected);
}

void JsonReader::space() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
    ++at_;
  }
}

void JsonReader::expect(char c, const char* expected) {
  space();
  if (at_ >= text_.size() || text_[at_] != c) fail("invalid JSON", got_here(), expected);
  ++at_;
}

JsonReader::Kind JsonReader::peek() {
  space();
  switch (at_ < text_.size() ? text_[at_] : '\0') {
    case '{': return Kind::kObject;
    case '[': return Kind::kArray;
    case '"': return Kind::kString;
    case 't': return Kind::kTrue;
    case 'f': return Kind::kFalse;
    case 'n': return Kind::kNull;
    default: break;
  }
  if (at_ < text_.size() && (text_[at_] == '-' || (text_[at_] >= '0' && text_[at_] <= '9'))) return Kind::kNumber;
  fail("invalid JSON", got_here(), "a value");
}

void JsonReader::begin_object() {
  expect('{', "an object, {...}");
  if (++depth_ > kMaxDepth) fail("JSON nested too deeply", "more levels", std::to_string(kMaxDepth) + " at most");
  first_ = true;
}

void JsonReader::begin_array() {
  expect('[', "an array, [...]");
  if (++depth_ > kMaxDepth) fail("JSON nested too deeply", "more levels", std::to_string(kMaxDepth) + " at most");
  first_ = true;
}

bool JsonReader::next_member(std::string& key) {
  space();
  if (at_ < text_.size() && text_[at_] == '}') {
    ++at_;
    --depth_;
    first_ = false;
    return false;
  }
  if (!first_) expect(',', "',' or '}'");
  space();
  read_string(key);
  expect(':', "':'");
  return true;
}

bool JsonReader::next_item() {
  space();
  if (at_ < text_.size() && text_[at_] == ']') {
    ++at_;
    --depth_;
    first_ = false;
    return false;
  }
  if (!first_) expect(',', "',' or ']'");
  first_ = false;
  return true;
}

std::uint32_t JsonReader::hex4() {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    std::uint32_t digit = 0;
    if (c >= '0' && c <= '9') {
      digit = static_cast<std::uint32_t>(c - '0');
    } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
      digit = static_cast<std::uint32_t>((c | 0x20) - 'a' + 10);
    } else {
      fail("invalid JSON escape", got_here(), "four hexadecimal digits after \\u");
    }
    value = value * 16 + digit;
  }
  return value;
}

// at_ is behind the backslash.
void JsonReader::escape(std::string& out) {
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
  if (const std::size_t i = kNames.find(c); c != '\0' && i != std::string_view::npos) {
    out += kValues[i];
    ++at_;
    return;
  }
  if (c != 'u') fail("invalid JSON escape", got_here(), "one of \" \\ / b f n r t u");
  ++at_;
  std::uint32_t code = hex4();
  if (code >= 0xD800 && code < 0xE000) {
    const bool high = code < 0xDC00;
    const bool pair = high && text_.substr(at_, 2) == "\\u";
    if (!pair) fail("a lone surrogate in a JSON string", "half a character", "a pair of \\u escapes");
    at_ += 2;
    const std::uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) {
      fail("a lone surrogate in a JSON string", "half a character", "a pair of \\u escapes");
    }
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }
  append_utf8(code, out);
}

void JsonReader::read_string(std::string& out) {
  expect('"', "a string");
  first_ = false;
  out.clear();
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text_.data());
  while (true) {
    const std::size_t start = at_;
    while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' && bytes[at_] >= 0x20) {
      if (bytes[at_] < 0x80) {
        ++at_;
        continue;
      }
      const Utf8Char c = decode_utf8(bytes + at_, bytes + text_.size());
      if (c.code == kInvalidByte) fail("invalid UTF-8 in a JSON string", got_here(), "UTF-8");
      at_ += c.length;
    }
    out.append(text_, start, at_ - start);
    if (at_ >= text_.size() || bytes[at_] < 0x20) {
      fail("a JSON string that does not end", got_here(), "'\"'");
    }
    if (text_[at_++] == '"') return;
    escape(out);
  }
}

std::string_view JsonReader::number() {
  space();
  const std::size_t start = at_;
  const auto digits = [this] {
    const std::size_t from = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == from) fail("invalid JSON", got_here(), "a digit");
  };
  if (at_ < text_.size() && text_[at_] == '-') ++at_;
  if (at_ < text_.size() && text_[at_] == '0') {
    ++at_;
  } else {
    digits();
  }
  if (at_ < text_.size() && text_[at_] == '.') {
    ++at_;
    digits();
  }
  if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    digits();
  }
  first_ = false;
  return text_.substr(start, at_ - start);
}

std::int64_t JsonReader::read_integer() {
  if (peek() != Kind::kNumber) fail("wrong type", got_here(), "a whole number");
  const std::string_view digits = number();
  std::int64_t value = 0;
  const auto [stop, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (fault != std::errc{} || stop != digits.data() + digits.size()) {
    fail("wrong number", std::string(digits.substr(0, 40)), "a whole number of at most 64 bits");
  }
  return value;
}

void JsonReader::literal(const char* word) {
  space();
  const std::size_t length = std::strlen(word);
  if (text_.substr(at_, length) != word) fail("invalid JSON", got_here(), word);
  at_ += length;
  first_ = false;
}

bool JsonReader::read_bool() {
  const bool value = peek() == Kind::kTrue;
  literal(value ? "true" : "false");
  return value;
}

void JsonReader::read_null() { literal("null"); }

std::string JsonReader::raw() {
  std::string out;
  copy(&out);
  return out;
}

// Depth is bounded by begin_object() and begin_array(), so the recursion is, too.
void JsonReader::copy(std::string* out) {
  std::string text;
  bool first = true;
  const auto put = [out](std::string_view piece) {
    if (out) *out += piece;
  };
  switch (peek()) {
    case Kind::kObject:
      begin_object();
      put("{");
      while (next_member(text)) {
        put(first ? "" : ",");
        put(json_quote(text));
        put(":");
        copy(out);
        first = false;
      }
      put("}");
      break;
    case Kind::kArray:
      begin_array();
      put("[");
      while (next_item()) {
        put(first ? "" : ",");
        copy(out);
        first = false;
      }
      put("]");
      break;
    case Kind::kString:
      read_string(text);
      put(out ? json_quote(text) : text);
      break;
    case Kind::kNumber: put(number()); break;
    case Kind::kTrue:
    case Kind::kFalse: put(read_bool() ? "true" : "false"); break;
    case Kind::kNull:
      read_null();
      put("null");
      break;
  }
}

void JsonReader::finish() {
  space();
  if (at_ < text_.size()) fail("more after the end of the JSON value", got_here(), "the end of the file");
}

std::string json_quote(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out += '"';
}

}  // namespace gpt2::tokenizer
