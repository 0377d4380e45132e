// A pull reader for JSON (RFC 8259), for vocabulary files: no tree, no recursion on hostile depth, one pass.
//
// Why: the real vocabulary is one object of 50,257 members that must be ready in milliseconds, and a file from a
// stranger must end in an error that says where. Every fault is a kTokenizer Error with source, line and byte. Strings
// are valid UTF-8 or an error; a lone surrogate escape is an error. Numbers are kept as text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gpt2::tokenizer {

class JsonReader {
 public:
  static constexpr int kMaxDepth = 64;

  enum class Kind { kObject, kArray, kString, kNumber, kTrue, kFalse, kNull };

  // Text and source (the name for messages) must outlive the reader.
  JsonReader(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  // What the next value is; consumes only white space.
  Kind peek();

  // After begin_object(): `while (next_member(key)) read the value`. After begin_array(): `while (next_item()) read
  // it`.
  void begin_object();
  bool next_member(std::string& key);
  void begin_array();
  bool next_item();

  // Appends nothing: replaces `out` by the string.
  void read_string(std::string& out);
  std::int64_t read_integer();
  bool read_bool();
  void read_null();

  // Skips the next value, or returns it as compact JSON text (for the settings that are only compared).
  void skip() { copy(nullptr); }
  std::string raw();

  // Nothing but white space may follow.
  void finish();

  // "source: line 3, byte 141", of the position where the reader is.
  std::string where() const { return where_at(at_); }

  [[noreturn]] void fail(const std::string& what, const std::string& got, const std::string& expected) const;

 private:
  void space();
  void expect(char c, const char* expected);
  void literal(const char* word);
  std::string_view number();
  std::uint32_t hex4();
  void escape(std::string& out);
  void copy(std::string* out);
  std::string got_here() const;
  std::string where_at(std::size_t at) const;

  std::string_view text_, source_;
  std::size_t at_ = 0;
  int depth_ = 0;
  bool first_ = false;  // the container was just opened: no comma before the next element
};

// The string as a JSON string, with quotes; what is not ASCII stays as it is.
std::string json_quote(std::string_view text);

}  // namespace gpt2::tokenizer
