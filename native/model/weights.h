// The shape of a model and views of its tensors. Views: whoever built them keeps the memory mapped while the model
// lives.
//
// Names are those of Hugging Face's GPT2LMHeadModel without the prefix "transformer.". Conv1D weights lie as [in, out].
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "kernels/types.h"

namespace gpt2::model {

struct Config {
  std::size_t vocab = 0, positions = 0, embd = 0, layers = 0, heads = 0, inner = 0;
  kernels::Activation activation = kernels::Activation::kGeluTanh;
  float epsilon = 1e-5f;
  bool scale_attn_weights = true;
  bool scale_by_layer = false;  // divide the scores of layer i by i + 1, too
  bool tied = true;

  std::size_t head_dim() const { return embd / heads; }
};

// "gelu_new", "gelu", "relu", "silu", "quick_gelu", "tanh"; throws kInvalidRequest for another.
kernels::Activation activation_named(const std::string& name);

struct Tensor {
  const void* data = nullptr;
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<std::size_t> shape;
};
using Tensors = std::map<std::string, Tensor>;

// Gain and bias of a LayerNorm, or the bias of a linear layer, always float32: they are small, and kernels want one
// type.
using Vector = std::vector<float>;

struct Linear {
  Tensor weight;
  Vector bias;
};

struct Layer {
  Vector ln_1_gain, ln_1_bias, ln_2_gain, ln_2_bias;
  Linear attn, attn_proj, fc, fc_proj;
};

struct Weights {
  Tensor wte, wpe, head;  // head is wte when tied
  std::vector<Layer> layers;
  Vector ln_f_gain, ln_f_bias;

  std::size_t bytes() const;  // of the matrices that one decoded token reads
};

// Throws kWeights, naming the tensor, for one that is missing or has another shape than the config says.
Weights collect(const Config& config, const Tensors& tensors);

}  // namespace gpt2::model
