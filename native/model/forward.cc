#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gpt2::model {
namespace {

using kernels::Activation;

// Rows of one attention task: whole tiles of queries, and enough work to be worth a task.
constexpr std::size_t kTaskRows = 8 * kernels::kQueryRows;
// Passes with more rows than this last long enough that a person would notice a late Ctrl-C.
constexpr std::size_t kPollRows = 16;

std::size_t scratch_floats(const Config& c) {
  return kernels::round_up(std::max(kernels::matmul_scratch(Model::kMaxRows), kernels::attention_scratch(c.positions)),
                           16);
}

}  // namespace

Model::Model(Config config, Weights weights, const kernels::Kernels& kernels, int threads)
    : config_(config),
      weights_(std::move(weights)),
      cache_shape_(config),
      kernels_(kernels),
      pool_(threads),
      scratch_size_(scratch_floats(config)),
      scratch_(scratch_size_ * static_cast<std::size_t>(threads)),
      x_(kMaxRows * config.embd),
      normed_(kMaxRows * config.embd),
      qkv_(kMaxRows * 3 * config.embd),
      inner_(kMaxRows * std::max(config.inner, config.embd)) {}

void Model::forward(const std::vector<Slice>& slices, const Capture& capture, const Poll& poll) {
  std::size_t rows = 0;
  slice_rows_.clear();
  for (const Slice& s : slices) {
    slice_rows_.push_back(rows);
    rows += s.count;
  }
  plan_attention(slices);
  embed(slices, rows);
  if (capture) capture(0, x_.data());
  for (std::size_t i = 0; i < config_.layers; ++i) {
    if (poll && rows > kPollRows) poll();
    const Layer& layer = weights_.layers[i];
    norm(x_.data(), layer.ln_1_gain, layer.ln_1_bias, normed_.data(), rows);
    linear(normed_.data(), layer.attn, qkv_.data(), rows, Activation::kNone, false);
    write_cache(slices, i);
    attend(slices, i);
    linear(normed_.data(), layer.attn_proj, x_.data(), rows, Activation::kNone, true);
    norm(x_.data(), layer.ln_2_gain, layer.ln_2_bias, normed_.data(), rows);
    linear(normed_.data(), layer.fc, inner_.data(), rows, config_.activation, false);
    linear(inner_.data(), layer.fc_proj, x_.data(), rows, Activation::kNone, true);
    if (capture) capture(i + 1, x_.data());
  }
}

void Model::plan_attention(const std::vector<Slice>& slices) {
  tasks_.clear();
  for (std::size_t s = 0; s < slices.size(); ++s) {
    for (std::size_t first = 0; first < slices[s].count; first += kTaskRows) {
      const std::size_t count = std::min(kTaskRows, slices[s].count - first);
      for (std::size_t head = 0; head < config_.heads; ++head) {
        tasks_.push_back({static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(head),
                          static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(count)});
      }
    }
  }
  // The longest tasks (late rows see most positions) first, so that no thread is left with one at the end.
  if (tasks_.size() > config_.heads * slices.size()) std::reverse(tasks_.begin(), tasks_.end());
}

void Model::embed(const std::vector<Slice>& slices, std::size_t rows) {
  const std::size_t row_bytes = config_.embd * kernels::dtype_size(weights_.wte.dtype);
  const auto* wte = static_cast<const char*>(weights_.wte.data);
  const auto* wpe = static_cast<const char*>(weights_.wpe.data);
  pool_.run(slices.size(), [&](std::size_t s, int) {
    const Slice& slice = slices[s];
    for (std::size_t i = 0; i < slice.count; ++i) {
      kernels_.embed(wte + static_cast<std::size_t>(slice.ids[i]) * row_bytes, wpe + (slice.start + i) * row_bytes,
                     weights_.wte.dtype, x_.data() + (slice_rows_[s] + i) * config_.embd, config_.embd);
    }
  });
  (void)rows;
}

void Model::norm(const float* x, const Vector& gain, const Vector& bias, float* y, std::size_t rows) {
  constexpr std::size_t kChunk = 16;
  const std::size_t n = config_.embd;
  pool_.run((rows + kChunk - 1) / kChunk, [&](std::size_t task, int) {
    const std::size_t last = std::min(rows, (task + 1) * kChunk);
    for (std::size_t i = task * kChunk; i < last; ++i) {
      kernels_.layer_norm(x + i * n, gain.data(), bias.data(), config_.epsilon, y + i * n, n);
    }
  });
}

void Model::linear(const float* x, const Linear& layer, float* y, std::size_t rows, Activation activation,
                   bool accumulate) {
  const std::size_t k = layer.weight.shape[0], n = layer.weight.shape[1];
  // A few rows read W in long runs, one or two per thread; many rows work panel by panel.
  const auto threads = static_cast<std::size_t>(pool_.threads());
  const std::size_t share = kernels::round_up((n + threads - 1) / threads, kernels::kPanel);
  const std::size_t columns =
      rows < 12 ? std::max(share / 2 / kernels::kPanel * kernels::kPanel, kernels::kPanel) : kernels::kPanel;
  pool_.run((n + columns - 1) / columns, [&](std::size_t task, int thread) {
    kernels::Matmul a = {};
    a.x = x;
    a.ldx = k;
    a.w = layer.weight.data;
    a.dtype = layer.weight.dtype;
    a.ldw = n;
    a.bias = layer.bias.data();
    a.y = y;
    a.ldy = n;
    a.m = rows;
    a.k = k;
    a.first = task * columns;
    a.last = std::min(n, a.first + columns);
    a.activation = activation;
    a.accumulate = accumulate;
    a.scratch = scratch(thread);
    kernels_.matmul_kn(a);
  });
}

void Model::write_cache(const std::vector<Slice>& slices, std::size_t layer) {
  const std::size_t c = config_.embd, d = config_.head_dim(), heads = config_.heads;
  pool_.run(slices.size() * heads, [&](std::size_t task, int) {
    const std::size_t s = task / heads, head = task % heads;
    for (std::size_t i = 0; i < slices[s].count; ++i) {
      const float* row = qkv_.data() + (slice_rows_[s] + i) * 3 * c + head * d;
      const std::size_t position = slices[s].start + i;
      cache_shape_.write(slices[s].blocks[position / kernels::kBlock], layer, head, position % kernels::kBlock, row + c,
                         row + 2 * c);
    }
  });
}

// Reads q from qkv_, writes the heads' outputs side by side into normed_.
void Model::attend(const std::vector<Slice>& slices, std::size_t layer) {
  const std::size_t c = config_.embd, d = config_.head_dim();
  float scale = config_.scale_attn_weights ? 1.0f / std::sqrt(static_cast<float>(d)) : 1.0f;
  if (config_.scale_by_layer) scale /= static_cast<float>(layer + 1);
  pool_.run(tasks_.size(), [&](std::size_t index, int thread) {
    const Task& task = tasks_[index];
    const Slice& slice = slices[task.slice];
    const std::size_t row = slice_rows_[task.slice] + task.first;
    kernels::Attention a = {};
    a.q = qkv_.data() + row * 3 * c + task.head * d;
    a.ldq = 3 * c;
    a.blocks = reinterpret_cast<const float* const*>(slice.blocks);
    a.offset = cache_shape_.offset(layer, task.head) / sizeof(float);
    a.out = normed_.data() + row * c + task.head * d;
    a.ldo = c;
    a.m = task.count;
    a.start = slice.start + task.first;
    a.head_dim = d;
    a.scale = scale;
    a.scratch = scratch(thread);
    kernels_.attention(a);
  });
}

void Model::normalised(std::size_t first, std::size_t count, float* out) {
  norm(x_.data() + first * config_.embd, weights_.ln_f_gain, weights_.ln_f_bias, out, count);
}

void Model::logits(const std::vector<std::size_t>& rows, float* out) {
  const std::size_t c = config_.embd, v = config_.vocab;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    kernels_.layer_norm(x_.data() + rows[i] * c, weights_.ln_f_gain.data(), weights_.ln_f_bias.data(), config_.epsilon,
                        normed_.data() + i * c, c);
  }
  const std::size_t columns = 512;
  pool_.run((v + columns - 1) / columns, [&](std::size_t task, int) {
    kernels::Matmul a = {};
    a.x = normed_.data();
    a.ldx = c;
    a.w = weights_.head.data;
    a.dtype = weights_.head.dtype;
    a.ldw = c;
    a.y = out;
    a.ldy = v;
    a.m = rows.size();
    a.k = c;
    a.first = task * columns;
    a.last = std::min(v, a.first + columns);
    kernels_.matmul_nk(a);
  });
}

}  // namespace gpt2::model
