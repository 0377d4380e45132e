// Engine and Mailbox for Python. Arrays come in and go out as numpy; the GIL is released while the engine computes.
#include "engine/engine.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "bindings/mailbox.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2::bindings {

nb::object float_array(std::vector<std::size_t> shape, const std::function<void(float*)>& fill) {
  std::size_t n = 1;
  for (std::size_t d : shape) n *= d;
  float* data = new float[n];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  {
    nb::gil_scoped_release release;
    fill(data);
  }
  return nb::cast(nb::ndarray<nb::numpy, float>(data, shape.size(), shape.data(), owner));
}

namespace {

using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

Config config_from(const nb::dict& d) {
  const auto size = [&](const char* key) { return nb::cast<std::size_t>(d[key]); };
  Config c;
  c.vocab = size("vocab_size");
  c.positions = size("n_positions");
  c.embd = size("n_embd");
  c.layers = size("n_layer");
  c.heads = size("n_head");
  c.inner = size("n_inner");
  c.activation = model::activation_named(nb::cast<std::string>(d["activation"]));
  c.epsilon = nb::cast<float>(d["layer_norm_epsilon"]);
  c.scale_attn_weights = nb::cast<bool>(d["scale_attn_weights"]);
  c.scale_by_layer = nb::cast<bool>(d["scale_attn_by_inverse_layer_idx"]);
  c.tied = nb::cast<bool>(d["tie_word_embeddings"]);
  c.cache = model::cache_dtype_named(nb::cast<std::string>(d["cache"]));
  return c;
}

using Spans = std::vector<std::pair<std::uintptr_t, std::size_t>>;  // addresses and lengths

// `maps` are the files that are mapped; arrays that lie elsewhere are memory of Python.
Tensors tensors_from(const nb::dict& d, const Spans& maps) {
  Tensors out;
  for (auto [key, value] : d) {
    const auto name = nb::cast<std::string>(key);
    const auto array = nb::cast<Array>(value);
    Tensor t;
    t.data = array.data();
    const auto at = reinterpret_cast<std::uintptr_t>(t.data);
    for (const auto& [begin, length] : maps) t.mapped |= at >= begin && at - begin < length;
    if (array.dtype() == nb::dtype<float>()) {
      t.type = model::Element::kF32;
    } else if (array.dtype() == nb::dtype<std::uint16_t>()) {
      t.type = model::Element::kBF16;
    } else if (array.dtype() == nb::dtype<std::int8_t>()) {
      t.type = model::Element::kI8;
    } else if (array.dtype() == nb::dtype<std::uint8_t>()) {
      t.type = model::Element::kU8;
    } else {
      throw Error(ErrorKind::kWeights, "tensor " + name, "another dtype", "float32, bfloat16 as uint16, int8 or uint8");
    }
    for (std::size_t i = 0; i < array.ndim(); ++i) t.shape.push_back(array.shape(i));
    out.emplace(name, std::move(t));
  }
  return out;
}

std::vector<std::int32_t> to_vector(const Ids& ids) { return {ids.data(), ids.data() + ids.size()}; }

// Lets Python handle Ctrl-C during long calls, now and then: taking the interpreter's lock may wait for other threads.
// Signals are the main thread's business, so that other threads get nothing to call.
Poll signal_poll() {
  const nb::object threading = nb::module_::import_("threading");
  if (!threading.attr("main_thread")().is(threading.attr("current_thread")())) return nullptr;
  static constexpr std::chrono::milliseconds kEvery{20};
  return [asked = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked < kEvery) return;
    asked = now;
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  };
}

const char* ended_name(Ended ended) {
  switch (ended) {
    case Ended::kNo: break;
    case Ended::kLength: return "length";
    case Ended::kStop: return "stop";
    case Ended::kContext: return "context";
    case Ended::kError: return "error";
  }
  return nullptr;
}

// Of a branch: (request, branch, slides, the answer or None, the error or None). Else:
// (request, alternative, token, logprob, [(id, logprob)], slides, why it ended or None, the error or None)
nb::object event_tuple(Event& e, const Config& config) {
  const nb::object error = e.error ? exception_object(e.error) : nb::none();
  if (e.branch) {
    return nb::make_tuple(e.request, e.alternative, e.slides,
                          e.reply == nullptr ? nb::none() : reply_tuple(std::move(e.reply), config), error);
  }
  nb::list top;
  for (const auto& [token, logprob] : e.choice.top) top.append(nb::make_tuple(token, logprob));
  const char* ended = ended_name(e.ended);
  return nb::make_tuple(e.request, e.alternative, e.choice.token, e.choice.logprob, top, e.slides,
                        ended == nullptr ? nb::object(nb::none()) : nb::object(nb::str(ended)), error);
}

nb::list wait(Mailbox& box) {
  std::vector<Event> events;
  const Poll poll = signal_poll();
  {
    nb::gil_scoped_release release;
    box.wait(events, poll);
  }
  nb::list out;
  for (Event& e : events) out.append(event_tuple(e, box.config()));
  return out;
}

nb::dict stats(const Engine& engine) {
  const Stats s = engine.stats();
  nb::dict d;
  d["waiting"] = s.waiting, d["running"] = s.running;
  d["blocks"] = s.blocks, d["blocks_used"] = s.blocks_used;
  d["blocks_cached"] = s.blocks_cached, d["blocks_free"] = s.blocks_free;
  d["block_bytes"] = s.block_bytes, d["cache_bytes"] = s.cache_bytes;
  d["requests"] = s.requests, d["sequences_ended"] = s.sequences_ended;
  d["errors"] = s.errors, d["cancelled"] = s.cancelled;
  d["steps"] = s.steps, d["tokens_computed"] = s.tokens_computed, d["tokens_chosen"] = s.tokens_chosen;
  d["prompt_tokens"] = s.prompt_tokens, d["prefix_hit_tokens"] = s.prefix_hit_tokens;
  d["preemptions"] = s.preemptions;
  return d;
}

// A numpy array of bfloat16 bits from float32, rounded to nearest even, and back (exactly).
nb::object narrow(const nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>& in) {
  const std::size_t n = in.size();
  auto* data = new std::uint16_t[n];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::uint16_t*>(p); });
  {
    nb::gil_scoped_release release;
    for (std::size_t i = 0; i < n; ++i)
      data[i] = kernels::narrow_bf16(kernels::load_weight(in.data(), kernels::DType::kF32, i));
  }
  return nb::cast(nb::ndarray<nb::numpy, std::uint16_t, nb::ndim<1>>(data, {n}, owner));
}

nb::object widen(const nb::ndarray<const std::uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& in) {
  return float_array({in.size()}, [&](float* out) {
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = kernels::load_weight(in.data(), kernels::DType::kBF16, i);
  });
}

std::uint64_t submit(Mailbox& box, const Ids& ids, const sampling::Params& params, std::size_t max_new_tokens,
                     std::uint32_t alternatives, bool slide, bool share_prefix, const std::string& salt, double timeout,
                     std::size_t unread, const LoadedAdapter* adapter) {
  Request r;
  r.ids = to_vector(ids);
  r.params = params;
  r.max_new_tokens = max_new_tokens;
  r.alternatives = alternatives;
  r.slide = slide;
  r.share_prefix = share_prefix;
  r.salt = salt;
  r.timeout = timeout;
  r.unread = unread;
  r.adapter = adapter_of(adapter);
  nb::gil_scoped_release release;
  return box.submit(std::move(r));
}

void bind_mailbox(nb::module_& m) {
  const auto unlocked = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Mailbox> mailbox(m, "Mailbox", "A caller's side of the engine; see native/engine/mailbox.h.");
  mailbox.def(nb::init<Engine&>(), "engine"_a, nb::keep_alive<1, 2>())
      .def("submit", submit, "ids"_a, "params"_a, "max_new_tokens"_a, "alternatives"_a = 1, "slide"_a = false,
           "share_prefix"_a = true, "salt"_a = "", "timeout"_a = 0.0, "unread"_a = 256, "adapter"_a.none() = nb::none())
      .def("wait", wait,
           "Waits for events: (request, alternative, token, logprob, [(id, logprob)], slides, ended, error).\n"
           "or of a branch (request, branch, slides, answer, error). An empty list says that none are left to come.")
      .def(
          "cancel", [](Mailbox& box, std::uint64_t request) { box.cancel(request); }, "request"_a, unlocked)
      .def(
          "cancel", [](Mailbox& box, std::uint64_t request, std::uint32_t k) { box.cancel(request, k); }, "request"_a,
          "alternative"_a, unlocked)
      .def("pause", &Mailbox::pause, "request"_a, "paused"_a, unlocked)
      .def("close", &Mailbox::close, unlocked)
      .def_prop_ro("live", &Mailbox::live);
  bind_branches(mailbox);
}

EngineOptions options_from(const nb::dict& d) {
  EngineOptions o;
  o.isa = nb::cast<std::string>(d["isa"]);
  o.rounding = nb::cast<bool>(d["rounding"]);
  o.threads = nb::cast<int>(d["threads"]);
  o.cpus = nb::cast<std::vector<int>>(d["cpus"]);
  o.cache_bytes = nb::cast<std::size_t>(d["cache_bytes"]);
  o.available_bytes = nb::cast<std::size_t>(d["available_bytes"]);
  o.max_batch = nb::cast<std::size_t>(d["max_batch"]);
  o.max_queue = nb::cast<std::size_t>(d["max_queue"]);
  o.step_tokens = nb::cast<std::size_t>(d["step_tokens"]);
  o.prefix_cache = nb::cast<bool>(d["prefix_cache"]);
  return o;
}

nb::object logits(Engine& e, const Ids& ids, std::size_t first, const LoadedAdapter* adapter) {
  const std::size_t n = ids.size(), rows = first < n ? n - first : 0;
  return float_array({rows, e.config().vocab}, [&, poll = signal_poll()](float* out) {
    e.logits(ids.data(), n, first, out, poll, adapter_of(adapter));
  });
}

nb::object score(Engine& e, const Ids& ids, const LoadedAdapter* adapter) {
  const std::size_t n = ids.size();
  return float_array({n == 0 ? 0 : n - 1},
                     [&, poll = signal_poll()](float* out) { e.score(ids.data(), n, out, poll, adapter_of(adapter)); });
}

nb::object hidden_states(Engine& e, const Ids& ids, const LoadedAdapter* adapter) {
  const std::size_t n = ids.size();
  return float_array({e.config().layers + 1, n, e.config().embd}, [&, poll = signal_poll()](float* out) {
    e.hidden_states(ids.data(), n, out, poll, adapter_of(adapter));
  });
}

// The arrays are copied into the kernels' form.
LoadedAdapter make_adapter(Engine& engine, const nb::dict& tensors, const nb::dict& scales, const std::string& key) {
  AdapterSource source;
  source.tensors = tensors_from(tensors, {});
  for (auto [name, scale] : scales) source.scales.emplace(nb::cast<std::string>(name), nb::cast<float>(scale));
  source.key = key;
  nb::gil_scoped_release release;
  return {engine.adapter(source)};
}

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<LoadedAdapter>(m, "Adapter", "An adapter of one engine; see native/model/adapter.h.")
      .def_prop_ro("rank", [](const LoadedAdapter& a) { return a.adapter->rank; })
      .def_prop_ro("bytes", [](const LoadedAdapter& a) { return a.adapter->bytes(); })
      .def_prop_ro("users", [](const LoadedAdapter& a) { return a.adapter.use_count() - 1; });
  nb::class_<Engine>(m, "Engine")
      // The engine keeps alive what it reads where it lies, and so the mapped file behind it: the dict, out of which
      // the other arrays are taken.
      .def(
          "__init__",
          [](Engine* self, const nb::dict& config, nb::dict tensors, const nb::dict& options) {
            const auto maps = nb::cast<Spans>(options["mapped"]);
            new (self) Engine(config_from(config), tensors_from(tensors, maps), options_from(options));
            nb::dict kept;
            for (const std::string& name : self->borrowed()) kept[name.c_str()] = tensors[name.c_str()];
            tensors.clear();
            tensors.update(kept);
#if defined(__GLIBC__)
            malloc_trim(0);  // copies that were narrowed or widened at load, a few megabytes each, lie between others
#endif
          },
          "config"_a, "tensors"_a, "options"_a, nb::keep_alive<1, 3>())
      .def_prop_ro("isa", &Engine::isa)
      .def_prop_ro("threads", &Engine::threads)
      .def_prop_ro("weight_bytes", &Engine::weight_bytes)
      .def_prop_ro("max_batch", &Engine::max_batch)
      .def("stats", stats)
      .def("adapter", make_adapter, "tensors"_a, "scales"_a, "key"_a)
      .def("logits", logits, "ids"_a, "first"_a = 0, "adapter"_a.none() = nb::none())
      .def("score", score, "ids"_a, "adapter"_a.none() = nb::none())
      .def("hidden_states", hidden_states, "ids"_a, "adapter"_a.none() = nb::none());
  bind_mailbox(m);
  const auto names = [](const std::vector<Isa>& isas) {
    std::vector<std::string> out;
    for (Isa isa : isas) out.emplace_back(isa_name(isa));
    return out;
  };
  m.def("available_isas", [names] { return names(available_isas()); });
  m.def("rounding_isas", [names] { return names(rounding_isas()); });
  m.def("narrow_bfloat16", narrow, "values"_a);
  m.def("widen_bfloat16", widen, "bits"_a);
}

}  // namespace gpt2::bindings
