// gpt2._native.Sampler and its parameters, for tests, benchmarks and programs that bring their own logits. The engine
// calls the C++ class directly.
#include "sampling/sampler.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "base/errors.h"
#include "base/philox.h"
#include "bindings/bindings.h"

namespace nb = nanobind;

namespace gpt2::bindings {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Mask = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<std::string> order(const sampling::Params& params) {
  std::vector<std::string> names;
  for (const sampling::Rule rule : params.order) names.emplace_back(sampling::rule_name(rule));
  return names;
}

// Rules that are not named come last, in the order that they have among themselves.
void set_order(sampling::Params& params, const std::vector<std::string>& names) {
  sampling::Order given = sampling::default_order();
  auto place = given.begin();
  for (const std::string& name : names) {
    const auto at = std::find_if(place, given.end(), [&](sampling::Rule r) { return sampling::rule_name(r) == name; });
    if (at == given.end()) {
      throw Error(ErrorKind::kInvalidRequest, "sampler_order", name, "names of rules, none of them twice");
    }
    std::rotate(place, at, at + 1);
    ++place;
  }
  params.order = given;
}

void require_size(const sampling::Sampler& sampler, const Logits& logits, const std::optional<Mask>& mask) {
  const std::size_t vocab_size = static_cast<std::size_t>(sampler.vocab_size()), words = (vocab_size + 31) / 32;
  if (logits.shape(0) != vocab_size) {
    throw Error(ErrorKind::kInvalidRequest, "logits", std::to_string(logits.shape(0)) + " numbers",
                std::to_string(vocab_size) + ", one per vocabulary entry");
  }
  if (mask && mask->shape(0) != words) {
    throw Error(ErrorKind::kInvalidRequest, "mask", std::to_string(mask->shape(0)) + " words",
                std::to_string(words) + ", one bit per vocabulary entry");
  }
}

sampling::Place place_of(const Ids& history, std::size_t generated, std::uint32_t alternative,
                         const std::optional<Mask>& mask) {
  return {history.data(), history.shape(0), generated, alternative, mask ? mask->data() : nullptr};
}

nb::tuple next(sampling::Sampler& sampler, const Logits& logits, const sampling::Params& params, const Ids& history,
               std::size_t generated, std::uint32_t alternative, const std::optional<Mask>& mask,
               sampling::State* state) {
  require_size(sampler, logits, mask);
  sampling::State fresh;
  const sampling::Choice choice = sampler.next(logits.data(), params, place_of(history, generated, alternative, mask),
                                               state == nullptr ? fresh : *state);
  return nb::make_tuple(choice.token, choice.logprob, choice.top);
}

nb::object candidates(sampling::Sampler& sampler, const Logits& logits, const sampling::Params& params,
                      const Ids& history, std::size_t k, std::size_t generated, const std::optional<Mask>& mask,
                      bool normalise) {
  require_size(sampler, logits, mask);
  return nb::cast(sampler.candidates(logits.data(), params, place_of(history, generated, 0, mask), k, normalise));
}

nb::object process(sampling::Sampler& sampler, const Logits& logits, const sampling::Params& params, const Ids& history,
                   std::size_t generated, std::uint32_t alternative, const std::optional<Mask>& mask,
                   const sampling::State* state, bool normalise, bool draw_rules) {
  require_size(sampler, logits, mask);
  return float_array({logits.shape(0)}, [&](float* out) {
    sampler.process(logits.data(), params, place_of(history, generated, alternative, mask),
                    state == nullptr ? sampling::State{} : *state, normalise, draw_rules, out);
  });
}

using sampling::Params;

// What shapes the draw.
nb::class_<Params> bind_draw_params(nb::module_& m) {
  nb::class_<Params> params(m, "SamplerParams", "The part of gpt2.decoding.SamplingParams that the sampler sees.");
  params.def(nb::init<>())
      .def_prop_rw("sampler_order", &order, &set_order)
      .def_rw("temperature", &Params::temperature)
      .def_rw("dynatemp_range", &Params::dynatemp_range)
      .def_rw("dynatemp_exponent", &Params::dynatemp_exponent)
      .def_rw("top_n_sigma", &Params::top_n_sigma)
      .def_rw("top_h", &Params::top_h)
      .def_rw("top_k", &Params::top_k)
      .def_rw("top_p", &Params::top_p)
      .def_rw("min_p", &Params::min_p)
      .def_rw("typical_p", &Params::typical_p)
      .def_rw("epsilon_cutoff", &Params::epsilon_cutoff)
      .def_rw("eta_cutoff", &Params::eta_cutoff)
      .def_rw("xtc_probability", &Params::xtc_probability)
      .def_rw("xtc_threshold", &Params::xtc_threshold)
      .def_rw("mirostat", &Params::mirostat)
      .def_rw("mirostat_tau", &Params::mirostat_tau)
      .def_rw("mirostat_eta", &Params::mirostat_eta)
      .def_rw("min_tokens_to_keep", &Params::min_tokens_to_keep);
  return params;
}

// What looks at the history, and what goes with a request.
void bind_params(nb::module_& m) {
  nb::class_<Params> params = bind_draw_params(m);
  params.def_rw("repetition_penalty", &Params::repetition_penalty)
      .def_rw("frequency_penalty", &Params::frequency_penalty)
      .def_rw("presence_penalty", &Params::presence_penalty)
      .def_rw("repeat_last_n", &Params::repeat_last_n)
      .def_rw("dry_multiplier", &Params::dry_multiplier)
      .def_rw("dry_base", &Params::dry_base)
      .def_rw("dry_allowed_length", &Params::dry_allowed_length)
      .def_rw("dry_penalty_last_n", &Params::dry_penalty_last_n)
      .def_rw("dry_sequence_breakers", &Params::dry_sequence_breakers)
      .def_rw("no_repeat_ngram_size", &Params::no_repeat_ngram_size)
      .def_rw("logit_bias", &Params::logit_bias)
      .def_rw("sequence_bias", &Params::sequence_bias)
      .def_rw("bad_words_ids", &Params::bad_words_ids)
      .def_rw("suppress_tokens", &Params::suppress_tokens)
      .def_rw("begin_suppress_tokens", &Params::begin_suppress_tokens)
      .def_rw("forced_bos_token_id", &Params::forced_bos_token_id)
      .def_rw("forced_eos_token_id", &Params::forced_eos_token_id)
      .def_rw("forced_decoder_ids", &Params::forced_decoder_ids)
      .def_rw("exponential_decay_start", &Params::exponential_decay_start)
      .def_rw("exponential_decay_factor", &Params::exponential_decay_factor)
      .def_rw("min_length", &Params::min_length)
      .def_rw("min_new_tokens", &Params::min_new_tokens)
      .def_rw("max_length", &Params::max_length)
      .def_rw("max_new_tokens", &Params::max_new_tokens)
      .def_rw("renormalize_logits", &Params::renormalize_logits)
      .def_rw("stop_token_ids", &Params::stop_token_ids)
      .def_rw("eos_token_ids", &Params::eos_token_ids)
      .def_rw("seed", &Params::seed)
      .def_rw("logprobs", &Params::logprobs);
}

}  // namespace

void bind_sampler(nb::module_& m) {
  bind_params(m);
  nb::class_<sampling::State>(m, "SamplerState", "What the rules carry from one token of a sequence to the next.")
      .def(nb::init<>())
      .def("copy", [](const sampling::State& state) { return state; })
      .def_rw("mu", &sampling::State::mu);
  nb::class_<sampling::Sampler>(m, "Sampler", "Chooses tokens from logits; see native/sampling/sampler.h.")
      .def(nb::init<int>(), nb::arg("vocab_size"))
      .def_prop_ro("vocab_size", &sampling::Sampler::vocab_size)
      .def("next", &next, nb::arg("logits"), nb::arg("params"), nb::arg("history"), nb::arg("generated") = 0,
           nb::arg("alternative") = 0, nb::arg("mask") = nb::none(), nb::arg("state") = nb::none(),
           "logits [V] float32 and history [any] int32, contiguous. Returns (token, logprob, [(id, logprob), ...]).")
      .def("candidates", &candidates, nb::arg("logits"), nb::arg("params"), nb::arg("history"), nb::arg("k"),
           nb::arg("generated") = 0, nb::arg("mask") = nb::none(), nb::arg("normalise") = false,
           "The k best tokens after the rules before temperature: [(id, score), ...], best first.")
      .def("process", &process, nb::arg("logits"), nb::arg("params"), nb::arg("history"), nb::arg("generated") = 0,
           nb::arg("alternative") = 0, nb::arg("mask") = nb::none(), nb::arg("state") = nb::none(),
           nb::arg("normalise") = false, nb::arg("draw_rules") = true, "Scores [V] after the rules.");
  m.def("philox_uniform", &philox_uniform, nb::arg("seed"), nb::arg("alternative"), nb::arg("position"),
        nb::arg("draw") = 0, "The uniform number in [0, 1) that the sampler uses for one position of one alternative.");
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
