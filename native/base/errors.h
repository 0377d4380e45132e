// The one exception that the native code throws. The bindings turn it into the Python exception of the same kind
// (gpt2.errors); nothing in native/ aborts or prints.
#pragma once
#include <stdexcept>
#include <string>

namespace gpt2 {

enum class ErrorKind {
  kInvalidRequest,  // an argument of a call
  kTokenizer,       // a vocabulary or merges that cannot be used
  kWeights,         // tensors that do not make a model
  kEngine,          // the machine or the build lacks what was asked for
  kOutOfMemory,
  kOverloaded,  // the queue is full
  kExpired,     // a request waited longer than it was willing to
};

// what: the thing that is wrong ("top_p", "tensor h.0.attn.c_attn.weight"); the other fields may be empty.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string what, std::string got = {}, std::string expected = {}, std::string hint = {})
      : std::runtime_error(got.empty() ? what : what + ": got " + got + ", expected " + expected),
        kind_(kind),
        item_(std::move(what)),
        got_(std::move(got)),
        expected_(std::move(expected)),
        hint_(std::move(hint)) {}

  ErrorKind kind() const { return kind_; }
  const std::string& item() const { return item_; }
  const std::string& got() const { return got_; }
  const std::string& expected() const { return expected_; }
  const std::string& hint() const { return hint_; }

 private:
  ErrorKind kind_;
  std::string item_, got_, expected_, hint_;
};

}  // namespace gpt2
