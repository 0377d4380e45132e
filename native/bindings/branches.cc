// The driven requests of a Mailbox for Python: begin, open, extend, fork, rewind, drop, choose, rules.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "bindings/mailbox.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2::bindings {
namespace {

using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
nb::object owned(std::unique_ptr<T[]> data, std::initializer_list<std::size_t> shape) {
  if (data == nullptr) return nb::none();
  T* at = data.get();
  nb::capsule owner(at, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  (void)data.release();
  return nb::cast(nb::ndarray<nb::numpy, T>(at, shape.size(), shape.begin(), owner));
}

nb::tuple choice_tuple(const sampling::Choice& choice) {
  nb::list top;
  for (const auto& [token, logprob] : choice.top) top.append(nb::make_tuple(token, logprob));
  return nb::make_tuple(choice.token, choice.logprob, top);
}

AskKind kind_named(const std::string& name) {
  if (name == "choices") return AskKind::kChoices;
  if (name == "candidates") return AskKind::kCandidates;
  if (name == "logits") return AskKind::kLogits;
  throw Error(ErrorKind::kInvalidRequest, "kind", name, "choices, candidates or logits");
}

bool extend(Mailbox& box, std::uint64_t request, std::uint32_t branch, const std::vector<std::int32_t>& ids,
            const std::string& kind, std::size_t rows, std::size_t drafts, std::size_t count, bool normalise,
            bool hidden, const std::vector<int>& layers, const std::optional<Mask>& mask) {
  Ask ask;
  ask.kind = kind_named(kind);
  ask.rows = rows;
  ask.drafts = drafts;
  ask.count = count;
  ask.normalise = normalise;
  ask.hidden = hidden;
  ask.layers = layers;
  if (mask) ask.mask.assign(mask->data(), mask->data() + mask->size());
  nb::gil_scoped_release release;
  return box.extend(request, branch, ids.data(), ids.size(), std::move(ask));
}

void require_vocabulary(const Mailbox& box, const Logits& logits, const std::optional<Mask>& mask) {
  const std::size_t vocab = box.config().vocab, words = (vocab + 31) / 32;
  if (logits.size() != vocab) {
    throw Error(ErrorKind::kInvalidRequest, "logits", std::to_string(logits.size()) + " numbers",
                std::to_string(vocab) + ", one for each token");
  }
  if (mask && mask->size() != words) {
    throw Error(ErrorKind::kInvalidRequest, "mask", std::to_string(mask->size()) + " words",
                std::to_string(words) + ", one bit for each token");
  }
}

nb::tuple choose(Mailbox& box, std::uint64_t request, std::uint32_t branch, const Logits& logits,
                 const std::optional<Mask>& mask) {
  require_vocabulary(box, logits, mask);
  sampling::Choice choice;
  {
    nb::gil_scoped_release release;
    choice = box.choose(request, branch, logits.data(), mask ? mask->data() : nullptr);
  }
  return choice_tuple(choice);
}

nb::object rules(Mailbox& box, std::uint64_t request, std::uint32_t branch, const Logits& logits, bool normalise,
                 bool draw_rules) {
  require_vocabulary(box, logits, std::nullopt);
  return float_array({logits.size()},
                     [&](float* out) { box.rules(request, branch, logits.data(), normalise, draw_rules, out); });
}

std::uint64_t begin(Mailbox& box, bool slide, bool share_prefix, const std::string& salt, double timeout,
                    const LoadedAdapter* adapter) {
  return box.begin({slide, share_prefix, salt, adapter_of(adapter), timeout});
}

}  // namespace

nb::object reply_tuple(std::unique_ptr<Reply> reply, const Config& config) {
  nb::list choices;
  for (const sampling::Choice& choice : reply->choices) choices.append(choice_tuple(choice));
  const std::size_t n = reply->candidates.size(), rows = reply->rows, layers = reply->asked_layers;
  std::unique_ptr<std::int32_t[]> ids;
  std::unique_ptr<float[]> scores;
  if (reply->asked_candidates) {
    ids = std::make_unique_for_overwrite<std::int32_t[]>(n);
    scores = std::make_unique_for_overwrite<float[]>(n);
    for (std::size_t i = 0; i < n; ++i) std::tie(ids[i], scores[i]) = reply->candidates[i];
  }
  return nb::make_tuple(reply->length, choices, owned(std::move(ids), {n}), owned(std::move(scores), {n}),
                        owned(std::move(reply->logits), {rows, config.vocab}),
                        owned(std::move(reply->hidden), {rows, config.embd}),
                        owned(std::move(reply->layers), {layers, rows, config.vocab}));
}

void bind_branches(nb::class_<Mailbox>& mailbox) {
  const auto unlocked = nb::call_guard<nb::gil_scoped_release>();
  mailbox
      .def("begin", begin, "slide"_a = false, "share_prefix"_a = true, "salt"_a = "", "timeout"_a = 0.0,
           "adapter"_a.none() = nb::none(), "A request whose branches the caller drives; its number.")
      .def("open", &Mailbox::open, "request"_a, "params"_a, "alternative"_a = 0, "prompt_length"_a = 0, unlocked,
           "An empty branch of it; its number.")
      .def("fork", &Mailbox::fork, "request"_a, "branch"_a, "alternative"_a = nb::none(), unlocked)
      .def("rewind", &Mailbox::rewind, "request"_a, "branch"_a, "length"_a, unlocked)
      .def("drop", &Mailbox::drop, "request"_a, "branch"_a, unlocked)
      .def("extend", extend, "request"_a, "branch"_a, "ids"_a, "kind"_a, "rows"_a = 1, "drafts"_a = 0, "count"_a = 0,
           "normalise"_a = false, "hidden"_a = false, "layers"_a = std::vector<int>(), "mask"_a = nb::none(),
           "False when the window is full and does not slide: then nothing has changed.")
      .def("choose", choose, "request"_a, "branch"_a, "logits"_a, "mask"_a = nb::none(),
           "(token, logprob, [(id, logprob)]) from logits [V] of the caller's making.")
      .def("rules", rules, "request"_a, "branch"_a, "logits"_a, "normalise"_a = false, "draw_rules"_a = true,
           "Scores [V] after the branch's rules.");
}

}  // namespace gpt2::bindings
