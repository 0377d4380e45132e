// gpt2._native.Tokenizer, .Trainer and .Utf8Stream: Python objects to bytes and ids, and back. The GIL is released
// while text is encoded, counted or learnt from.
#include "tokenizer/tokenizer.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "tokenizer/formats.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/trainer.h"
#include "tokenizer/utf8.h"

namespace nb = nanobind;

namespace gpt2::bindings {
namespace {

using tokenizer::IdBuffer;
using tokenizer::Vocabulary;
using Allowed = std::vector<std::uint32_t>;
using IdArray = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;

// The native tokenizer and the Python int of each id, made when it is first needed: a list of ids then costs a
// reference for each instead of an object. Touched only with the GIL held.
struct Tokenizer : tokenizer::Tokenizer {
  explicit Tokenizer(Vocabulary v) : tokenizer::Tokenizer(std::move(v)), numbers(vocabulary().size(), nullptr) {}
  ~Tokenizer() {
    for (PyObject* number : numbers) Py_XDECREF(number);
  }
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  mutable std::vector<PyObject*> numbers;  // [V]
};

std::string_view view(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }
nb::bytes to_bytes(std::string_view text) { return nb::bytes(text.data(), text.size()); }

// The UTF-8 of a str, or the content of a bytes object. Valid as long as the object is.
std::string_view text_of(nb::handle text) {
  if (PyUnicode_Check(text.ptr())) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (data != nullptr) return {data, static_cast<std::size_t>(size)};
    nb::python_error fault;
    if (!fault.matches(PyExc_UnicodeEncodeError)) throw fault;
    const auto at = nb::cast<std::size_t>(fault.value().attr("start"));
    throw Error(ErrorKind::kInvalidRequest, "text", "a lone surrogate at character " + std::to_string(at),
                "characters that UTF-8 can write", "bytes: text.encode(\"utf-8\", \"surrogateescape\")");
  }
  if (PyBytes_Check(text.ptr())) {
    return {PyBytes_AS_STRING(text.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(text.ptr()))};
  }
  throw Error(ErrorKind::kInvalidRequest, "text", Py_TYPE(text.ptr())->tp_name, "str or bytes");
}

nb::object to_list(const Tokenizer& t, const IdBuffer& ids) {
  nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(ids.size())));
  if (!list.is_valid()) throw nb::python_error();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    PyObject*& number = t.numbers[static_cast<std::size_t>(ids[i])];
    if (number == nullptr && (number = PyLong_FromLong(ids[i])) == nullptr) throw nb::python_error();
    Py_INCREF(number);
    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), number);
  }
  return list;
}

IdArray to_array(IdBuffer ids) {
  const std::size_t size = ids.size();
  static_cast<void>(ids.reserve(1));  // numpy wants an address also for no elements
  std::int32_t* data = ids.release();
  const nb::capsule owner(data, [](void* p) noexcept { std::free(p); });
  return IdArray(data, {size}, owner);
}

IdBuffer encode(const Tokenizer& t, nb::handle text, const Allowed& allowed) {
  const std::string_view bytes = text_of(text);
  IdBuffer ids;
  nb::gil_scoped_release release;
  t.encode(bytes, allowed, ids);
  return ids;
}

nb::list encode_batch(const Tokenizer& t, const nb::object& texts, const Allowed& allowed, int threads, bool arrays) {
  const nb::tuple kept(texts);  // keeps the texts alive while the GIL is not held
  std::vector<std::string_view> views;
  views.reserve(kept.size());
  for (const nb::handle text : kept) views.push_back(text_of(text));
  std::vector<IdBuffer> ids;
  {
    nb::gil_scoped_release release;
    ids = t.encode_batch(views, allowed, threads);
  }
  nb::list out;
  for (IdBuffer& one : ids) {
    out.append(arrays ? nb::cast(to_array(std::move(one))) : to_list(t, one));
  }
  return out;
}

// A Python integer as an id; what is none, or does not fit, is an error that says where it stood.
std::int64_t to_id(PyObject* item, const std::string& where) {
  const nb::object index = nb::steal(PyBool_Check(item) ? nullptr : PyNumber_Index(item));
  if (!index.is_valid()) {
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidRequest, where, Py_TYPE(item)->tp_name, "an integer");
  }
  int overflow = 0;
  const std::int64_t id = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) {
    throw Error(ErrorKind::kInvalidRequest, where, "a number of more than 64 bits", "an id of this vocabulary");
  }
  return id;
}

std::vector<std::int64_t> ids_of(const nb::object& ids) {
  nb::object fast = nb::steal(PySequence_Fast(ids.ptr(), ""));
  if (!fast.is_valid()) {
    nb::python_error fault;
    if (!fault.matches(PyExc_TypeError)) throw fault;
    throw Error(ErrorKind::kInvalidRequest, "token ids", Py_TYPE(ids.ptr())->tp_name, "a sequence of integers");
  }
  std::vector<std::int64_t> out(static_cast<std::size_t>(PySequence_Fast_GET_SIZE(fast.ptr())));
  for (std::size_t i = 0; i < out.size(); ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(fast.ptr(), static_cast<Py_ssize_t>(i));
    if (PyLong_CheckExact(item)) {
      int overflow = 0;
      out[i] = PyLong_AsLongLongAndOverflow(item, &overflow);
      if (overflow == 0) continue;
    }
    out[i] = to_id(item, "token id at position " + std::to_string(i));
  }
  return out;
}

std::string decode(const Tokenizer& t, const nb::object& ids, bool skip_special) {
  IdArray array;
  if (nb::try_cast(ids, array, false) && array.stride(0) == 1) {
    nb::gil_scoped_release release;
    return t.decode(array.data(), array.size(), skip_special);
  }
  const std::vector<std::int64_t> list = ids_of(ids);
  nb::gil_scoped_release release;
  return t.decode(list.data(), list.size(), skip_special);
}

nb::object to_text(const std::string& bytes) {
  PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
  if (text == nullptr) throw nb::python_error();
  return nb::steal(text);
}

nb::dict specials(const Tokenizer& t) {
  nb::dict out;
  for (const std::uint32_t id : t.vocabulary().specials()) {
    const std::string_view text = t.vocabulary().token(id);
    out[nb::str(text.data(), text.size())] = id;
  }
  return out;
}

// ids and their ranges in the text, in characters or in bytes. Tokens are lossless, so their lengths say everything.
nb::tuple encode_with_offsets(const Tokenizer& t, nb::handle text, const Allowed& allowed, bool characters) {
  const IdBuffer ids = encode(t, text, allowed);
  const std::string_view bytes = text_of(text);
  characters = characters && PyUnicode_Check(text.ptr());
  nb::list spans;
  std::size_t start = 0, stop = 0;       // bytes
  std::size_t started = 0, stopped = 0;  // characters begun before `start`, before `stop`
  for (std::size_t i = 0; i < ids.size(); ++i) {
    stop += t.vocabulary().token(static_cast<std::uint32_t>(ids[i])).size();
    if (!characters) {
      spans.append(nb::make_tuple(start, stop));
    } else {
      for (std::size_t at = start; at < stop; ++at) stopped += (static_cast<unsigned char>(bytes[at]) & 0xC0) != 0x80;
      const bool within = (static_cast<unsigned char>(bytes[start]) & 0xC0) == 0x80;
      spans.append(nb::make_tuple(within ? started - 1 : started, stopped));
      started = stopped;
    }
    start = stop;
  }
  return nb::make_tuple(to_list(t, ids), spans);
}

// Counting keeps its state between pieces of text, so that Python can read the files.
struct Trainer {
  tokenizer::WordCounts counts;

  Tokenizer* train(std::size_t vocab_size, std::vector<std::string> special_tokens, std::uint64_t min_frequency) {
    const nb::gil_scoped_release release;
    return new Tokenizer(tokenizer::train(counts, {vocab_size, std::move(special_tokens), min_frequency}));
  }
};

void bind_class(nb::module_& m) {
  nb::class_<Tokenizer>(m, "Tokenizer")
      .def_static("from_vocab_and_merges",
                  [](const nb::bytes& vocab, const nb::bytes& merges, const std::string& vocab_source,
                     const std::string& merges_source, const std::vector<std::pair<std::string, std::int64_t>>& added) {
                    const nb::gil_scoped_release release;
                    return new Tokenizer(tokenizer::read_vocab_and_merges(view(vocab), view(merges), vocab_source,
                                                                          merges_source, added));
                  })
      .def_static("from_tokenizer_json",
                  [](const nb::bytes& json, const std::string& source) {
                    const nb::gil_scoped_release release;
                    return new Tokenizer(tokenizer::read_tokenizer_json(view(json), source));
                  })
      .def(
          "encode",
          [](const Tokenizer& t, nb::handle text, const Allowed& a) { return to_list(t, encode(t, text, a)); },
          nb::arg("text").none(), nb::arg("allowed"))
      .def(
          "encode_array",
          [](const Tokenizer& t, nb::handle text, const Allowed& a) { return to_array(encode(t, text, a)); },
          nb::arg("text").none(), nb::arg("allowed"))
      .def("encode_with_offsets", &encode_with_offsets, nb::arg("text").none(), nb::arg("allowed"),
           nb::arg("characters"))
      .def("encode_batch", &encode_batch)
      .def(
          "decode", [](const Tokenizer& t, const nb::object& ids, bool skip) { return to_text(decode(t, ids, skip)); },
          nb::arg().none(), nb::arg())
      .def(
          "decode_bytes",
          [](const Tokenizer& t, const nb::object& ids, bool skip) { return to_bytes(decode(t, ids, skip)); },
          nb::arg().none(), nb::arg())
      .def("token_bytes",
           [](const Tokenizer& t, const nb::object& number) {
             const std::int64_t id = to_id(number.ptr(), "token id");
             return to_bytes(t.decode(&id, 1));
           })
      .def("symbol",
           [](const Tokenizer& t, std::uint32_t id) {
             if (id >= t.vocabulary().size())
               throw Error(ErrorKind::kInvalidRequest, "token id", std::to_string(id), "an id");
             return t.vocabulary().symbol(id);
           })
      .def_prop_ro("vocab_size", [](const Tokenizer& t) { return t.vocabulary().size(); })
      .def("specials", &specials)
      .def("canonical", [](const Tokenizer& t) { return to_bytes(t.vocabulary().canonical()); })
      .def("vocab_json",
           [](const Tokenizer& t, bool ascii) { return to_bytes(tokenizer::write_vocab_json(t.vocabulary(), ascii)); })
      .def("merges_text", [](const Tokenizer& t) { return to_bytes(tokenizer::write_merges(t.vocabulary())); })
      .def("tokenizer_json",
           [](const Tokenizer& t) { return to_bytes(tokenizer::write_tokenizer_json(t.vocabulary())); });
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  bind_class(m);
  nb::class_<Trainer>(m, "TokenizerTrainer")
      .def("__init__",
           [](Trainer* self, std::size_t max_words) { new (self) Trainer{tokenizer::WordCounts(max_words)}; })
      .def("feed",
           [](Trainer& t, const nb::bytes& piece) {
             const nb::gil_scoped_release release;
             t.counts.feed(view(piece));
           })
      .def("end_document", [](Trainer& t) { t.counts.end_document(); })
      .def("train", &Trainer::train)
      .def_prop_ro("words", [](const Trainer& t) { return t.counts.words().size(); })
      .def_prop_ro("bytes", [](const Trainer& t) { return t.counts.bytes(); })
      .def_prop_ro("dropped", [](const Trainer& t) { return t.counts.dropped(); });
  m.def("utf8_prefix", [](const nb::bytes& data) {
    const std::string_view bytes = view(data);
    const nb::gil_scoped_release release;
    return tokenizer::utf8_prefix(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  });
  nb::class_<tokenizer::Utf8Stream>(m, "Utf8Stream")
      .def(nb::init<>())
      .def("push", [](tokenizer::Utf8Stream& s, const nb::bytes& piece) { return s.push(view(piece)); })
      .def("finish", &tokenizer::Utf8Stream::finish);
}

}  // namespace gpt2::bindings
