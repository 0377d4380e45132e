// Engine and Request for Python. Arrays come in and go out as numpy; the GIL is released while the engine computes.
#include "engine/engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/errors.h"
#include "bindings/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2::bindings {
namespace {

using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Called between layers of long passes with the GIL released: lets Python handle Ctrl-C.
void check_signals() {
  nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

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

Tensors tensors_from(const nb::dict& d) {
  Tensors out;
  for (auto [key, value] : d) {
    const auto name = nb::cast<std::string>(key);
    const auto array = nb::cast<Array>(value);
    Tensor t;
    t.data = array.data();
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

nb::object choice_tuple(const sampling::Choice& c) {
  nb::list top;
  for (const auto& [token, logprob] : c.top) top.append(nb::make_tuple(token, logprob));
  return nb::make_tuple(c.token, c.logprob, top);
}

nb::list step(Engine& engine, const std::vector<Request*>& requests) {
  std::vector<sampling::Choice> choices;
  {
    nb::gil_scoped_release release;
    choices = engine.step(requests, check_signals);
  }
  nb::list out;
  for (const sampling::Choice& c : choices) out.append(choice_tuple(c));
  return out;
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

void bind_request(nb::module_& m) {
  nb::class_<Request>(m, "Request")
      .def(
          "__init__",
          [](Request* self, const Engine& engine, const Ids& ids, const sampling::Params& params,
             std::uint32_t alternative) { new (self) Request(engine.config(), to_vector(ids), params, alternative); },
          "engine"_a, "ids"_a, "params"_a, "alternative"_a = 0)
      .def("fork", &Request::fork, "alternative"_a)
      .def("slide", &Request::slide, "keep"_a)
      .def_prop_ro("window", &Request::window)
      .def_prop_ro("generated", &Request::generated)
      .def_prop_ro("cache_bytes", &Request::cache_bytes)
      .def_prop_ro("ids", [](const Request& r) {
        nb::list out;
        for (std::int32_t id : r.ids()) out.append(id);
        return out;
      });
}

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<Engine>(m, "Engine")
      // The engine keeps the dict of tensors, and so the mapped file behind them, alive.
      .def(
          "__init__",
          [](Engine* self, const nb::dict& config, const nb::dict& tensors, const std::string& isa, int threads) {
            new (self) Engine(config_from(config), tensors_from(tensors), isa, threads);
          },
          "config"_a, "tensors"_a, "isa"_a = "auto", "threads"_a = 1, nb::keep_alive<1, 3>())
      .def_prop_ro("isa", &Engine::isa)
      .def_prop_ro("threads", &Engine::threads)
      .def_prop_ro("weight_bytes", &Engine::weight_bytes)
      .def(
          "prefill",
          [](Engine& e, const std::vector<Request*>& requests) {
            nb::gil_scoped_release release;
            e.prefill(requests, check_signals);
          },
          "requests"_a)
      .def("step", step, "requests"_a)
      .def(
          "logits",
          [](Engine& e, const Ids& ids, std::size_t first) {
            const std::size_t n = ids.size(), rows = first < n ? n - first : 0;
            return float_array({rows, e.config().vocab},
                               [&](float* out) { e.logits(ids.data(), n, first, out, check_signals); });
          },
          "ids"_a, "first"_a = 0)
      .def(
          "score",
          [](Engine& e, const Ids& ids) {
            const std::size_t n = ids.size();
            return float_array({n == 0 ? 0 : n - 1}, [&](float* out) { e.score(ids.data(), n, out, check_signals); });
          },
          "ids"_a)
      .def(
          "hidden_states",
          [](Engine& e, const Ids& ids) {
            const std::size_t n = ids.size();
            return float_array({e.config().layers + 1, n, e.config().embd},
                               [&](float* out) { e.hidden_states(ids.data(), n, out, check_signals); });
          },
          "ids"_a);
  bind_request(m);
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (Isa isa : available_isas()) names.emplace_back(isa_name(isa));
    return names;
  });
  m.def("narrow_bfloat16", narrow, "values"_a);
  m.def("widen_bfloat16", widen, "bits"_a);
}

}  // namespace gpt2::bindings
