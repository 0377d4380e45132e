// gpt2._native.Sampler and its parameters, for tests, benchmarks and programs that bring their own logits. The engine
// calls the C++ class directly.
#include "sampling/sampler.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "base/errors.h"
#include "base/philox.h"
#include "bindings/bindings.h"

namespace nb = nanobind;

namespace gpt2::bindings {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::tuple next(sampling::Sampler& sampler, const Logits& logits, const sampling::Params& params, const Ids& history,
               std::size_t generated, std::uint32_t alternative) {
  if (logits.shape(0) != static_cast<std::size_t>(sampler.vocab_size())) {
    throw Error(ErrorKind::kInvalidRequest, "logits", std::to_string(logits.shape(0)) + " numbers",
                std::to_string(sampler.vocab_size()) + ", one per vocabulary entry");
  }
  const sampling::Choice choice =
      sampler.next(logits.data(), params, history.data(), history.shape(0), generated, alternative);
  return nb::make_tuple(choice.token, choice.logprob, choice.top);
}

}  // namespace

void bind_sampler(nb::module_& m) {
  using sampling::Params;
  nb::class_<Params>(m, "SamplerParams", "The part of gpt2.decoding.SamplingParams that the sampler sees.")
      .def(nb::init<>())
      .def_rw("temperature", &Params::temperature)
      .def_rw("top_k", &Params::top_k)
      .def_rw("top_p", &Params::top_p)
      .def_rw("min_p", &Params::min_p)
      .def_rw("repetition_penalty", &Params::repetition_penalty)
      .def_rw("no_repeat_ngram_size", &Params::no_repeat_ngram_size)
      .def_rw("min_new_tokens", &Params::min_new_tokens)
      .def_rw("stop_token_ids", &Params::stop_token_ids)
      .def_rw("seed", &Params::seed)
      .def_rw("logprobs", &Params::logprobs);
  nb::class_<sampling::Sampler>(m, "Sampler", "Chooses tokens from logits; see native/sampling/sampler.h.")
      .def(nb::init<int>(), nb::arg("vocab_size"))
      .def_prop_ro("vocab_size", &sampling::Sampler::vocab_size)
      .def("next", &next, nb::arg("logits"), nb::arg("params"), nb::arg("history"), nb::arg("generated") = 0,
           nb::arg("alternative") = 0,
           "logits [V] float32 and history [any] int32, contiguous. Returns (token, logprob, [(id, logprob), ...]).");
  m.def("philox_uniform", &philox_uniform, nb::arg("seed"), nb::arg("alternative"), nb::arg("position"),
        "The uniform number in [0, 1) that the sampler uses for one position of one alternative.");
  m.def(
      "log_softmax_at",
      [](const Logits& logits, std::int32_t token) {
        return sampling::log_softmax_at(logits.data(), logits.shape(0), token);
      },
      nb::arg("logits"), nb::arg("token"));
  m.def(
      "top_n", [](const Logits& logits, std::size_t n) { return sampling::top_n(logits.data(), logits.shape(0), n); },
      nb::arg("logits"), nb::arg("n"), "The n most probable (id, logprob), best first, ties by id.");
}

}  // namespace gpt2::bindings
