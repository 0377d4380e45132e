// A low-rank adapter (LoRA, DoRA) as the forward pass adds it to rows of its own: y = x W + b + (x A) B.
//
// Why unmerged: one model in memory serves any number of adapters, each request with its own, in one batch. The two
// products are small (r is 4 to 64), and are the kernels' own matrix products of float32 (kernels/matmul.h), whatever
// the width of W: each sum is one chain whose order does not depend on the other rows, so that a request has the same
// bits alone and in any company.
//
// DoRA gives the columns of V = W + A B the lengths m: with the gain g = m / |V| of each output,
// y = g (x W) + b + (x A) (g B). So g is folded into B here, and is kept to be multiplied with what W gave.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "model/weights.h"

namespace gpt2::model {

// The change of one matrix [k, n].
struct LowRank {
  std::size_t rank = 0;     // 0: there is none
  const void* a = nullptr;  // [k, rank], packed float32
  const void* b = nullptr;  // [rank, n], packed float32; the scale, and DoRA's gain, are in it
  std::vector<float> gain;  // [n] of DoRA, or empty
};

struct LayerAdapter {
  LowRank attn, attn_proj, fc, fc_proj;
};

// Constant once it is made, so that any number of passes may use it.
struct Adapter {
  std::vector<LayerAdapter> layers;
  AlignedBytes packed;
  std::size_t rank = 0;      // the largest
  bool gains = false;        // DoRA
  std::uint64_t number = 0;  // of this model's adapters, from 1
  std::string key;           // names what it computes: prefixes are shared within one key

  // Of the model that it was made for. Shared, so that no later model can have the same.
  std::shared_ptr<const void> owner;

  Adapter() = default;
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;
  std::size_t bytes() const;
};

// Of tensors NAME.lora_A [rank, k], NAME.lora_B [n, rank] and, for DoRA, NAME.lora_magnitude_vector [n], all float32,
// NAME being "h.0.attn.c_attn" and the like; scales by NAME. Throws kWeights, naming the tensor, for one whose shape
// does not fit. Without a key nothing is shared with another adapter.
struct AdapterSource {
  Tensors tensors;
  std::map<std::string, float> scales;
  std::string key;
};
void collect(const Config& config, const AdapterSource& source, const Weights& weights, ThreadPool& pool, Adapter& out);

}  // namespace gpt2::model
