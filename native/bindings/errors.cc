// gpt2::Error -> the exception class of gpt2.errors that belongs to its kind, with the same fields.
#include "base/errors.h"

#include <new>

#include "bindings/bindings.h"

namespace nb = nanobind;

namespace gpt2::bindings {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidRequest: return "InvalidRequest";
    case ErrorKind::kTokenizer: return "TokenizerError";
    case ErrorKind::kWeights: return "WeightsError";
    case ErrorKind::kEngine: return "EngineError";
    case ErrorKind::kOutOfMemory: return "OutOfMemory";
    case ErrorKind::kOverloaded: return "Overloaded";
    case ErrorKind::kExpired: return "DeadlineExpired";
  }
  return "Error";
}

// A message may quote a file that is not UTF-8.
nb::object to_str(const std::string& text) {
  PyObject* str = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace");
  if (str == nullptr) throw nb::python_error();
  return nb::steal(str);
}

nb::object text_or_none(const std::string& text) { return text.empty() ? nb::none() : to_str(text); }

nb::object make(ErrorKind kind, const std::string& item, const std::string& got = {}, const std::string& expected = {},
                const std::string& hint = {}) {
  return nb::module_::import_("gpt2.errors")
      .attr(python_name(kind))(to_str(item), nb::arg("got") = text_or_none(got),
                               nb::arg("expected") = text_or_none(expected), nb::arg("hint") = text_or_none(hint));
}

void raise(const nb::object& error) { PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr()); }

}  // namespace

nb::object exception_object(const std::exception_ptr& p) {
  try {
    std::rethrow_exception(p);
  } catch (const Error& e) {
    return make(e.kind(), e.item(), e.got(), e.expected(), e.hint());
  } catch (const std::bad_alloc&) {
    return make(ErrorKind::kOutOfMemory, "the machine has no memory left for this call");
  } catch (const std::exception& e) {
    return make(ErrorKind::kEngine, e.what());
  }
}

void bind_errors(nb::module_&) {
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const Error&) {
      raise(exception_object(p));
    } catch (const std::bad_alloc&) {
      raise(exception_object(p));
    }
  });
}

}  // namespace gpt2::bindings
