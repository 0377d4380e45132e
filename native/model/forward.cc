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

// Bytes of a row as a layer reads it: the codes of integers, or bfloat16 where the kernels narrow; 0 for float32.
std::size_t row_bytes(const Linear& l, const kernels::Kernels& kernels) {
  if (l.integer()) return l.padded_k();
  const bool narrow = kernels.narrow != nullptr && l.dtype == kernels::DType::kBF16;
  return narrow ? kernels::round_up(l.k, kernels::kNarrowK) * sizeof(std::uint16_t) : 0;
}

// The widest of them; 0 when all layers read float32.
std::size_t widest(const Weights& w, const kernels::Kernels& kernels) {
  std::size_t width = 0;
  const auto see = [&](const Linear& l) { width = std::max(width, row_bytes(l, kernels)); };
  see(w.head);
  for (const Layer& l : w.layers) see(l.attn), see(l.attn_proj), see(l.fc), see(l.fc_proj);
  return width;
}

std::size_t scratch_floats(const Config& c, std::size_t width) {
  const std::size_t floats =
      std::max(kernels::matmul_scratch(Model::kMaxRows), kernels::attention_scratch(c.positions));
  const std::size_t bytes = width == 0 ? 0 : kernels::matmul_q_scratch(width);
  return kernels::round_up(std::max(floats, bytes / sizeof(float)), 16);
}

}  // namespace

Model::Model(const Config& config, const Tensors& tensors, const kernels::Kernels& kernels, int threads,
             const std::vector<int>& cpus)
    : config_(config),
      cache_shape_(config),
      kernels_(kernels),
      pool_(threads, cpus),
      x_(kMaxRows * config.embd),
      normed_(kMaxRows * config.embd),
      qkv_(kMaxRows * 3 * config.embd),
      inner_(kMaxRows * std::max(config.inner, config.embd)) {
  collect(config, tensors, kernels_, pool_, weights_);
  width_ = widest(weights_, kernels_);
  scratch_size_ = scratch_floats(config, width_);
  scratch_ = AlignedFloats(scratch_size_ * static_cast<std::size_t>(threads));
  if (width_ == 0) return;
  codes_ = AlignedBytes(kMaxRows * width_);
  code_sums_.resize(kMaxRows * (width_ / kernels::kSumRun));
  code_zeros_.resize(kMaxRows);
  code_scales_.resize(kMaxRows);
}

void Model::forward(const std::vector<Slice>& slices, const Capture& capture, const Poll& poll) {
  std::size_t rows = 0;
  slice_rows_.clear();
  for (const Slice& s : slices) {
    slice_rows_.push_back(rows);
    rows += s.count;
  }
  plan_attention(slices);
  group_rows(slices);
  embed(slices);
  if (capture) capture(0, x_.data());
  for (std::size_t i = 0; i < config_.layers; ++i) {
    if (poll && rows > kPollRows) poll();
    const Layer& layer = weights_.layers[i];
    norm(x_.data(), layer.ln_1_gain, layer.ln_1_bias, normed_.data(), rows, &layer.attn);
    project(normed_.data(), layer.attn, &LayerAdapter::attn, i, qkv_.data(), rows, Activation::kNone, false);
    write_cache(slices, i);
    attend(slices, i);
    prepare(normed_.data(), layer.attn_proj, rows);
    project(normed_.data(), layer.attn_proj, &LayerAdapter::attn_proj, i, x_.data(), rows, Activation::kNone, true);
    norm(x_.data(), layer.ln_2_gain, layer.ln_2_bias, normed_.data(), rows, &layer.fc);
    project(normed_.data(), layer.fc, &LayerAdapter::fc, i, inner_.data(), rows, config_.activation, false);
    prepare(inner_.data(), layer.fc_proj, rows);
    project(inner_.data(), layer.fc_proj, &LayerAdapter::fc_proj, i, x_.data(), rows, Activation::kNone, true);
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

void Model::embed(const std::vector<Slice>& slices) {
  const std::size_t c = config_.embd;
  pool_.run(slices.size(), [&](std::size_t s, int) {
    const Slice& slice = slices[s];
    for (std::size_t i = 0; i < slice.count; ++i) {
      float* row = x_.data() + (slice_rows_[s] + i) * c;
      weights_.wte.read(static_cast<std::size_t>(slice.ids[i]), row, c, false);
      weights_.wpe.read(slice.start + i, row, c, true);
    }
  });
}

void Model::norm(const float* x, const Vector& gain, const Vector& bias, float* y, std::size_t rows,
                 const Linear* next) {
  const std::size_t n = config_.embd;
  for_rows(rows, [&](std::size_t i) {
    kernels_.layer_norm(x + i * n, gain.data(), bias.data(), config_.epsilon, y + i * n, n);
    if (next != nullptr) prepare_row(y + i * n, *next, i);
  });
}

void Model::prepare(const float* x, const Linear& next, std::size_t rows) {
  if (row_bytes(next, kernels_) == 0) return;
  for_rows(rows, [&](std::size_t i) { prepare_row(x + i * next.k, next, i); });
}

void Model::prepare_row(const float* x, const Linear& next, std::size_t row) {
  const std::size_t bytes = row_bytes(next, kernels_);
  if (bytes == 0) return;
  auto* codes = reinterpret_cast<std::uint8_t*>(codes_.data()) + row * width_;
  if (!next.integer()) {
    return kernels_.narrow(x, next.k, bytes / sizeof(std::uint16_t), reinterpret_cast<std::uint16_t*>(codes));
  }
  std::int32_t* sums = code_sums_.data() + row * (width_ / kernels::kSumRun);
  const kernels::Quantized q = kernels_.quantize(x, next.k, next.padded_k(), codes, sums);
  code_scales_[row] = q.scale;
  code_zeros_[row] = q.zero;
}

void Model::linear(const float* x, const Linear& layer, float* y, std::size_t rows, Activation activation,
                   bool accumulate) {
  const std::size_t n = layer.n, columns = kernels::kPanel;
  pool_.run((n + columns - 1) / columns, [&](std::size_t task, int thread) {
    const auto fill = [&](auto& a) {
      a.w = layer.data;
      a.dtype = layer.dtype;
      a.bias = layer.bias.empty() ? nullptr : layer.bias.data();
      a.y = y;
      a.ldy = n;
      a.m = rows;
      a.k = layer.k;
      a.first = task * columns;
      a.last = std::min(n, a.first + columns);
      a.activation = activation;
      a.accumulate = accumulate;
      a.scratch = scratch(thread);
    };
    if (!layer.integer()) {
      kernels::Matmul a = {};
      fill(a);
      a.x = x;
      a.ldx = layer.k;
      a.narrow_x = reinterpret_cast<const std::uint16_t*>(codes_.data());
      a.narrow_ldx = width_ / sizeof(std::uint16_t);
      return kernels_.matmul(a);
    }
    kernels::MatmulQ a = {};
    fill(a);
    a.x = reinterpret_cast<const std::uint8_t*>(codes_.data());
    a.ldx = width_;
    a.xscale = code_scales_.data();
    a.xzero = code_zeros_.data();
    a.xsums = code_sums_.data();
    a.ldsums = width_ / kernels::kSumRun;
    a.mult = layer.mult;
    a.offset = layer.offset;
    a.group = layer.group;
    a.scale = layer.scale.data();
    a.wsum = layer.sums.data();
    a.zero = layer.zero.empty() ? nullptr : layer.zero.data();
    kernels_.matmul_q(a);
  });
}

void Model::write_cache(const std::vector<Slice>& slices, std::size_t layer) {
  const std::size_t c = config_.embd, d = config_.head_dim(), heads = config_.heads;
  pool_.run(slices.size() * heads, [&](std::size_t task, int) {
    const std::size_t s = task / heads, head = task % heads;
    for (std::size_t i = 0; i < slices[s].count; ++i) {
      const float* row = qkv_.data() + (slice_rows_[s] + i) * 3 * c + head * d;
      const std::size_t position = slices[s].start + i;
      std::byte* at = slices[s].blocks[position / kernels::kBlock] + cache_shape_.offset(layer, head);
      kernels::write_head(cache_shape_.head, at, position % kernels::kBlock, row + c, row + 2 * c);
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
    a.blocks = slice.blocks;
    a.offset = cache_shape_.offset(layer, task.head);
    a.out = normed_.data() + row * c + task.head * d;
    a.ldo = c;
    a.m = task.count;
    a.layout = cache_shape_.head;
    a.start = slice.start + task.first;
    a.scale = scale;
    a.scratch = scratch(thread);
    kernels_.attention(a);
  });
}

void Model::normalised(std::size_t first, std::size_t count, float* out) {
  norm(x_.data() + first * config_.embd, weights_.ln_f_gain, weights_.ln_f_bias, out, count, nullptr);
}

void Model::logits(const std::vector<std::size_t>& rows, float* out, bool norm) {
  const std::size_t c = config_.embd;
  const Linear& head = weights_.head;
  for_rows(rows.size(), [&](std::size_t i) {
    const float* x = x_.data() + rows[i] * c;
    float* row = normed_.data() + i * c;
    if (norm) {
      kernels_.layer_norm(x, weights_.ln_f_gain.data(), weights_.ln_f_bias.data(), config_.epsilon, row, c);
    } else {
      std::copy_n(x, c, row);
    }
    prepare_row(row, head, i);
  });
  linear(normed_.data(), head, out, rows.size(), Activation::kNone, false);
}

}  // namespace gpt2::model
