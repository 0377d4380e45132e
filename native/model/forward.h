// The forward pass of a GPT-2 over a ragged batch: some new tokens of some sequences, no padding.
//
// The rows of all slices are stacked to M rows; matrices see M rows, attention sees each sequence's own. Every kernel
// computes a row as if it stood alone (kernels/*.h), so logits do not depend on the company, the chunking or the
// threads. Radford et al. 2019: pre-LN blocks, x += attention(LN(x)), x += MLP(LN(x)), logits = LN_f(x) . head^T.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/table.h"
#include "model/adapter.h"
#include "model/kv_blocks.h"
#include "model/weights.h"

namespace gpt2::model {

// Receives the residual stream: after the embedding (index 0) and after each block (1 .. L), rows [M, C].
using Capture = std::function<void(std::size_t index, const float* rows)>;

// Called between layers of a large pass; may throw to abandon it: then the new positions hold nothing of use.
using Poll = std::function<void()>;

class Model {
 public:
  // The most rows of one pass: enough for the register tiles to be busy, few enough to be interrupted soon.
  static constexpr std::size_t kMaxRows = 256;

  // Packs the tensors, in parallel; quantised ones and float embeddings are used where they lie.
  Model(const Config& config, const Tensors& tensors, const kernels::Kernels& kernels, int threads,
        const std::vector<int>& cpus = {});

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const CacheShape& cache_shape() const { return cache_shape_; }
  ThreadPool& pool() { return pool_; }

  // An adapter of this model, and room to compute with it: not while a pass runs. Throws kWeights, std::bad_alloc.
  std::shared_ptr<const Adapter> adapter(const AdapterSource& source);

  bool owns(const Adapter& adapter) const { return adapter.owner == owner_; }

  // Runs the slices (together at most kMaxRows tokens, ids already checked, a sequence at most once) and fills their
  // new positions. The residual stream stays inside for logits() and normalised() until the next call.
  void forward(const std::vector<Slice>& slices, const Capture& capture, const Poll& poll);

  // Logits of some rows of the last forward pass, [rows.size(), V], rows at most kMaxRows.
  // Without `norm` the head reads the residual stream itself. May be called from a Capture, of the rows as they are
  // then.
  void logits(const std::vector<std::size_t>& rows, float* out, bool norm = true);

  // LN_f of `count` rows from `first` of the last forward pass, [count, C].
  void normalised(std::size_t first, std::size_t count, float* out);

 private:
  // Rows of one task of what works row by row.
  static constexpr std::size_t kRowTask = 16;
  // Tasks into which the outputs of an adapter's second product are cut: enough for the threads of few rows.
  static constexpr std::size_t kShares = 8;
  struct Task {  // attention of rows [first, first + count) of a slice, one head
    std::uint32_t slice, head, first, count;
  };
  struct Group {  // rows side by side with the same adapter
    const Adapter* adapter;
    std::size_t first, rows;
  };
  void plan_attention(const std::vector<Slice>& slices);
  void embed(const std::vector<Slice>& slices);
  // Calls body(row) for each row, on all threads.
  template <class Body>
  void for_rows(std::size_t rows, const Body& body) {
    pool_.run((rows + kRowTask - 1) / kRowTask, [&](std::size_t task, int) {
      const std::size_t last = rows < (task + 1) * kRowTask ? rows : (task + 1) * kRowTask;
      for (std::size_t i = task * kRowTask; i < last; ++i) body(i);
    });
  }
  // y = LN(x), and the rows as `next`, which will read y, wants them.
  void norm(const float* x, const Vector& gain, const Vector& bias, float* y, std::size_t rows, const Linear* next);
  // The rows as `next` reads them: quantised for integer weights, narrowed for bfloat16 where the kernels do so.
  void prepare(const float* x, const Linear& next, std::size_t rows);
  void prepare_row(const float* x, const Linear& next, std::size_t row);
  // x is the input of a layer that reads float32; others take the rows that were prepared last.
  void linear(const float* x, const Linear& layer, float* y, std::size_t rows, kernels::Activation activation,
              bool accumulate);
  // adapted.cc. linear(), with what the rows' adapters add to this matrix of layer `index`.
  void group_rows(const std::vector<Slice>& slices);
  void project(const float* x, const Linear& layer, LowRank LayerAdapter::*which, std::size_t index, float* y,
               std::size_t rows, kernels::Activation activation, bool accumulate);
  void multiply_gains(const Linear& layer, LowRank LayerAdapter::*which, std::size_t index, float* y);
  void add_low_rank(const float* x, const Linear& layer, LowRank LayerAdapter::*which, std::size_t index, float* y);
  void write_cache(const std::vector<Slice>& slices, std::size_t layer);
  void attend(const std::vector<Slice>& slices, std::size_t layer);
  float* scratch(int thread) { return scratch_.data() + static_cast<std::size_t>(thread) * scratch_size_; }

  Config config_;
  Weights weights_;
  CacheShape cache_shape_;
  const kernels::Kernels kernels_;
  ThreadPool pool_;
  std::size_t scratch_size_;
  AlignedFloats scratch_, x_, normed_, qkv_, inner_;
  // Prepared rows (kernels/rows.h): codes or bfloat16 [M, width_ bytes]; of codes sums [M, width_ / 32], one scale and
  // zero per row.
  std::size_t width_ = 0;
  AlignedBytes codes_;
  std::vector<std::int32_t> code_sums_, code_zeros_;
  std::vector<float> code_scales_;
  std::vector<std::size_t> slice_rows_;  // the first row of each slice
  std::vector<Task> tasks_;
  // Of adapters: rows . A [M, rank_room_]; what W gave, apart from the residual stream, where DoRA multiplies it [M,
  // C].
  std::vector<Group> groups_;
  std::vector<Group> pieces_;
  std::size_t rank_room_ = 0;
  AlignedFloats inner_rank_, apart_;
  std::shared_ptr<const void> owner_ = std::make_shared<char>();  // by which its adapters know it
  std::uint64_t adapters_ = 0;                                    // that were made
};

}  // namespace gpt2::model
