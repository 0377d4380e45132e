#include "model/weights.h"

#include "base/errors.h"

namespace gpt2::model {
namespace {

using Shape = std::vector<std::size_t>;

std::string text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

const Tensor& get(const Tensors& tensors, const std::string& name, const Shape& shape) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error(ErrorKind::kWeights, "tensor " + name, "nothing", "shape " + text(shape));
  if (found->second.shape != shape) {
    throw Error(ErrorKind::kWeights, "tensor " + name, "shape " + text(found->second.shape), "shape " + text(shape));
  }
  return found->second;
}

Vector vector(const Tensors& tensors, const std::string& name, std::size_t n) {
  const Tensor& t = get(tensors, name, {n});
  Vector out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = kernels::load_weight(t.data, t.dtype, i);
  return out;
}

Linear linear(const Tensors& tensors, const std::string& name, std::size_t in, std::size_t out) {
  return {get(tensors, name + ".weight", {in, out}), vector(tensors, name + ".bias", out)};
}

Layer layer(const Config& c, const Tensors& tensors, const std::string& prefix) {
  Layer l;
  l.ln_1_gain = vector(tensors, prefix + "ln_1.weight", c.embd);
  l.ln_1_bias = vector(tensors, prefix + "ln_1.bias", c.embd);
  l.attn = linear(tensors, prefix + "attn.c_attn", c.embd, 3 * c.embd);
  l.attn_proj = linear(tensors, prefix + "attn.c_proj", c.embd, c.embd);
  l.ln_2_gain = vector(tensors, prefix + "ln_2.weight", c.embd);
  l.ln_2_bias = vector(tensors, prefix + "ln_2.bias", c.embd);
  l.fc = linear(tensors, prefix + "mlp.c_fc", c.embd, c.inner);
  l.fc_proj = linear(tensors, prefix + "mlp.c_proj", c.inner, c.embd);
  return l;
}

std::size_t bytes_of(const Tensor& t) {
  std::size_t n = kernels::dtype_size(t.dtype);
  for (std::size_t d : t.shape) n *= d;
  return n;
}

}  // namespace

kernels::Activation activation_named(const std::string& name) {
  using kernels::Activation;
  static constexpr struct {
    const char* name;
    Activation activation;
  } kNames[] = {{"gelu_new", Activation::kGeluTanh}, {"gelu", Activation::kGeluErf},
                {"relu", Activation::kRelu},         {"silu", Activation::kSilu},
                {"tanh", Activation::kTanh},         {"quick_gelu", Activation::kQuickGelu}};
  for (const auto& known : kNames) {
    if (name == known.name) return known.activation;
  }
  throw Error(ErrorKind::kInvalidRequest, "activation", "'" + name + "'",
              "gelu_new, gelu, relu, silu, quick_gelu or tanh");
}

std::size_t Weights::bytes() const {
  std::size_t n = bytes_of(head);
  for (const Layer& l : layers) {
    n += bytes_of(l.attn.weight) + bytes_of(l.attn_proj.weight) + bytes_of(l.fc.weight) + bytes_of(l.fc_proj.weight);
  }
  return n;
}

Weights collect(const Config& c, const Tensors& tensors) {
  Weights w;
  w.wte = get(tensors, "wte.weight", {c.vocab, c.embd});
  w.wpe = get(tensors, "wpe.weight", {c.positions, c.embd});
  if (w.wte.dtype != w.wpe.dtype) {
    throw Error(ErrorKind::kWeights, "tensor wpe.weight", "another dtype than wte.weight", "the same dtype");
  }
  w.head = c.tied ? w.wte : get(tensors, "lm_head.weight", {c.vocab, c.embd});
  w.ln_f_gain = vector(tensors, "ln_f.weight", c.embd);
  w.ln_f_bias = vector(tensors, "ln_f.bias", c.embd);
  w.layers.reserve(c.layers);
  for (std::size_t i = 0; i < c.layers; ++i) w.layers.push_back(layer(c, tensors, "h." + std::to_string(i) + "."));
  return w;
}

}  // namespace gpt2::model
