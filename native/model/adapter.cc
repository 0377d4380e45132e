#include "model/adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/errors.h"
#include "model/pack.h"

namespace gpt2::model {
namespace {

using kernels::DType;
using Shape = std::vector<std::size_t>;

// More has no use (a GPT-2's largest matrix has fewer columns than this has squared), and the buffers stay small.
constexpr std::size_t kMaxRank = 4096;

std::string text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

const float* floats(const Tensors& tensors, const std::string& name, const Shape& shape) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error(ErrorKind::kWeights, "tensor " + name, "nothing", "shape " + text(shape));
  const Tensor& t = found->second;
  if (t.shape != shape || t.type != Element::kF32) {
    throw Error(ErrorKind::kWeights, "tensor " + name, "shape " + text(t.shape), "float32 of shape " + text(shape));
  }
  return static_cast<const float*>(t.data);
}

// One matrix that is changed, before it is packed.
struct Change {
  const Linear* base;
  LowRank* out;
  const float *a, *b, *magnitude;  // [rank, k], [n, rank], [n] or null
  float scale;
  std::vector<float> scaled;  // b with the scale and the gain
};

// Lengths of the columns of W + scale A B: [n]. Sums of doubles in the order of k.
std::vector<double> lengths(const Change& c, ThreadPool& pool) {
  const std::size_t k = c.base->k, n = c.base->n, rank = c.out->rank;
  std::vector<double> out(n);
  std::vector<std::vector<float>> columns(static_cast<std::size_t>(pool.threads()), std::vector<float>(k));
  std::vector<std::vector<double>> deltas(columns.size(), std::vector<double>(k));
  pool.run(n, [&](std::size_t j, int thread) {
    std::vector<float>& column = columns[static_cast<std::size_t>(thread)];
    std::vector<double>& delta = deltas[static_cast<std::size_t>(thread)];
    c.base->column(j, column.data());
    std::fill(delta.begin(), delta.end(), 0.0);
    for (std::size_t r = 0; r < rank; ++r) {
      const double b = static_cast<double>(c.scale) * static_cast<double>(c.b[j * rank + r]);
      for (std::size_t t = 0; t < k; ++t) delta[t] += b * static_cast<double>(c.a[r * k + t]);
    }
    double sum = 0.0;
    for (std::size_t t = 0; t < k; ++t) {
      const double v = static_cast<double>(column[t]) + delta[t];
      sum += v * v;
    }
    out[j] = std::sqrt(sum);
  });
  return out;
}

void scale(const std::string& name, Change& c, ThreadPool& pool) {
  const std::size_t n = c.base->n, rank = c.out->rank;
  if (c.magnitude != nullptr) {
    const std::vector<double> length = lengths(c, pool);
    c.out->gain.resize(n);
    for (std::size_t j = 0; j < n; ++j) {
      const double gain = static_cast<double>(c.magnitude[j]) / length[j];
      if (!std::isfinite(gain)) {
        throw Error(ErrorKind::kWeights, "tensor " + name + ".lora_magnitude_vector",
                    "column " + std::to_string(j) + " of length " + std::to_string(length[j]), "a length above 0");
      }
      c.out->gain[j] = static_cast<float>(gain);
    }
  }
  c.scaled.resize(n * rank);
  for (std::size_t j = 0; j < n; ++j) {
    const float by = c.scale * (c.out->gain.empty() ? 1.0f : c.out->gain[j]);
    for (std::size_t r = 0; r < rank; ++r) c.scaled[j * rank + r] = by * c.b[j * rank + r];
  }
}

}  // namespace

std::size_t Adapter::bytes() const {
  std::size_t n = packed.size();
  for (const LayerAdapter& l : layers) {
    for (const LowRank* m : {&l.attn, &l.attn_proj, &l.fc, &l.fc_proj}) n += m->gain.size() * sizeof(float);
  }
  return n;
}

void collect(const Config& config, const AdapterSource& source, const Weights& weights, ThreadPool& pool,
             Adapter& out) {
  out.key = source.key;
  out.layers.resize(config.layers);
  std::vector<std::pair<std::string, Change>> changes;
  std::size_t used = 0;
  const auto see = [&](const std::string& name, const Linear& base, LowRank& change) {
    const auto found = source.scales.find(name);
    if (found == source.scales.end()) return;
    const auto first = source.tensors.find(name + ".lora_A");
    const Shape shape = first == source.tensors.end() ? Shape{} : first->second.shape;
    change.rank = shape.empty() ? 0 : shape[0];
    if (change.rank < 1 || change.rank > kMaxRank) {
      throw Error(ErrorKind::kWeights, "tensor " + name + ".lora_A", "shape " + text(shape),
                  "a rank from 1 to " + std::to_string(kMaxRank));
    }
    Change c = {&base,
                &change,
                floats(source.tensors, name + ".lora_A", {change.rank, base.k}),
                floats(source.tensors, name + ".lora_B", {base.n, change.rank}),
                nullptr,
                found->second,
                {}};
    const std::string magnitude = name + ".lora_magnitude_vector";
    if (source.tensors.count(magnitude) != 0) c.magnitude = floats(source.tensors, magnitude, {base.n});
    out.rank = std::max(out.rank, change.rank);
    out.gains = out.gains || c.magnitude != nullptr;
    used += c.magnitude == nullptr ? 2 : 3;
    scale(name, c, pool);
    changes.emplace_back(name, std::move(c));
  };
  for (std::size_t i = 0; i < config.layers; ++i) {
    const std::string h = "h." + std::to_string(i) + ".";
    const Layer& base = weights.layers[i];
    LayerAdapter& layer = out.layers[i];
    see(h + "attn.c_attn", base.attn, layer.attn), see(h + "attn.c_proj", base.attn_proj, layer.attn_proj);
    see(h + "mlp.c_fc", base.fc, layer.fc), see(h + "mlp.c_proj", base.fc_proj, layer.fc_proj);
  }
  if (changes.empty() || used != source.tensors.size()) {
    throw Error(ErrorKind::kWeights, "an adapter", std::to_string(source.tensors.size() - used) + " tensors too many",
                "lora_A, lora_B and lora_magnitude_vector of the model's matrices, at least of one");
  }
  std::vector<Source> sources;
  for (const auto& [name, c] : changes) {
    sources.push_back({c.a, DType::kF32, c.base->k, c.out->rank, true});
    sources.push_back({c.scaled.data(), DType::kF32, c.out->rank, c.base->n, true});
  }
  out.packed = pack(sources, pool);
  const std::byte* at = out.packed.data();
  for (auto& [name, c] : changes) {
    c.out->a = at;
    at += kernels::packed_bytes(DType::kF32, c.base->k, c.out->rank);
    c.out->b = at;
    at += kernels::packed_bytes(DType::kF32, c.out->rank, c.base->n);
  }
}

}  // namespace gpt2::model
