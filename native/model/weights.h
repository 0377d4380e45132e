// The shape of a model and its weights, as the kernels take them: packed tiles, and small vectors as float32.
//
// Names are those of Hugging Face's GPT2LMHeadModel without the prefix "transformer.". A float matrix comes as it lies
// in a checkpoint (Conv1D weights as [in, out], the embedding as [V, C]) and is packed here, in parallel; a quantised
// one (NAME.q or NAME.q4 with its scales: docs/formats/quantised.md) comes packed and is used where it lies when that
// is on a cache line.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/table.h"

namespace gpt2::model {

struct Config {
  std::size_t vocab = 0, positions = 0, embd = 0, layers = 0, heads = 0, inner = 0;
  kernels::Activation activation = kernels::Activation::kGeluTanh;
  float epsilon = 1e-5f;
  bool scale_attn_weights = true;
  bool scale_by_layer = false;  // divide the scores of layer i by i + 1, too
  bool tied = true;
  kernels::DType cache = kernels::DType::kF32;  // how keys and values are kept: kF32, kBF16 or kI8

  std::size_t head_dim() const { return embd / heads; }
};

// "gelu_new", "gelu", "relu", "silu", "quick_gelu", "tanh"; throws kInvalidRequest for another.
kernels::Activation activation_named(const std::string& name);

// "float32", "bfloat16" or "int8"; throws kInvalidRequest for another.
kernels::DType cache_dtype_named(const std::string& name);

enum class Element { kF32, kBF16, kI8, kU8 };

struct Tensor {
  const void* data = nullptr;
  Element type = Element::kF32;
  std::vector<std::size_t> shape;
  // In a map of a file that nobody writes to: its pages are given back when they have been copied (base/pages.h).
  bool mapped = false;
};
using Tensors = std::map<std::string, Tensor>;

// Gain and bias of a LayerNorm, or the bias of a linear layer, always float32: they are small, and kernels want one
// type.
using Vector = std::vector<float>;

// y = x . W + bias, W [k, n] packed (kernels/types.h). What only integers have is empty for floats; vectors over n are
// padded to whole tiles.
struct Linear {
  kernels::DType dtype = kernels::DType::kF32;
  std::size_t k = 0, n = 0;
  const void* data = nullptr;
  AlignedBytes own;  // a copy of quantised data that does not lie on a cache line
  Vector bias, scale;
  std::vector<std::int32_t> sums;  // of w8 over k
  std::vector<std::int8_t> zero;
  const std::uint8_t* mult = nullptr;
  const std::int8_t* offset = nullptr;
  std::size_t group = 0;

  bool integer() const { return dtype == kernels::DType::kI8 || dtype == kernels::DType::kI4; }
  std::size_t padded_k() const { return kernels::padded_k(dtype, k); }
  std::size_t bytes() const;  // read for one row

  // y[t] = W(t, output) (add = false) or y[t] + W(t, output), for all k.
  void column(std::size_t output, float* y, bool add = false) const;
};

struct Layer {
  Vector ln_1_gain, ln_1_bias, ln_2_gain, ln_2_bias;
  Linear attn, attn_proj, fc, fc_proj;
};

// Rows of C floats by token or position: a float tensor as it lies, or the columns of a quantised head.
struct Embedding {
  Tensor rows;
  const Linear* columns = nullptr;

  // y[j] = row[j] (add = false) or y[j] + row[j].
  void read(std::size_t row, float* y, std::size_t n, bool add) const;
};

struct Weights {
  Embedding wte, wpe;
  Linear head, token_columns;  // token_columns: an untied quantised embedding
  std::vector<Layer> layers;
  Vector ln_f_gain, ln_f_bias;
  AlignedBytes packed;  // all float matrices
  // The tensors that are read where they lie; the memory of the others is not needed any more.
  std::vector<std::string> borrowed;

  Weights() = default;
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;
  std::size_t bytes() const;  // of the matrices that one decoded token reads
};

// Fills `weights`. Throws kWeights, naming the tensor, for one that is missing or has another shape or type than the
// config says.
void collect(const Config& config, const Tensors& tensors, const kernels::Kernels& kernels, ThreadPool& pool,
             Weights& weights);

}  // namespace gpt2::model
