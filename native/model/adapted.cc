// The forward pass where rows have adapters (adapter.h).
//
// Rows without one get the bits that they get elsewhere: W's product is the same, an activation that is applied after
// the sum is stored is the same function of the same number, and y + (b + x W) is the same sum whether it is made in
// the kernel or from a buffer.
#include <algorithm>

#include "model/forward.h"

namespace gpt2::model {

using kernels::Activation;

std::shared_ptr<const Adapter> Model::adapter(const AdapterSource& source) {
  auto out = std::make_shared<Adapter>();
  collect(config_, source, weights_, pool_, *out);
  if (out->rank > rank_room_) {
    const std::size_t room = kernels::round_up(out->rank, kernels::kTile);
    inner_rank_ = AlignedFloats(kMaxRows * room);
    rank_room_ = room;
  }
  if (out->gains && apart_.size() == 0) apart_ = AlignedFloats(kMaxRows * config_.embd);
  groups_.reserve(kMaxRows);
  pieces_.reserve(kMaxRows);
  out->owner = owner_;
  out->number = ++adapters_;
  if (out->key.empty()) out->key = "#" + std::to_string(out->number);  // shares with itself alone
  return out;
}

void Model::group_rows(const std::vector<Slice>& slices) {
  groups_.clear();
  for (std::size_t s = 0; s < slices.size(); ++s) {
    const Adapter* adapter = slices[s].adapter;
    if (adapter == nullptr) continue;
    if (!groups_.empty()) {
      Group& last = groups_.back();
      if (last.adapter == adapter && last.first + last.rows == slice_rows_[s]) {
        last.rows += slices[s].count;
        continue;
      }
    }
    groups_.push_back({adapter, slice_rows_[s], slices[s].count});
  }
}

void Model::project(const float* x, const Linear& layer, LowRank LayerAdapter::*which, std::size_t index, float* y,
                    std::size_t rows, Activation activation, bool accumulate) {
  bool any = false, gains = false;
  for (const Group& g : groups_) {
    const LowRank& change = g.adapter->layers[index].*which;
    any = any || change.rank > 0;
    gains = gains || !change.gain.empty();
  }
  if (!any) return linear(x, layer, y, rows, activation, accumulate);
  const bool apart = gains && accumulate;
  float* out = apart ? apart_.data() : y;
  linear(x, layer, out, rows, Activation::kNone, accumulate && !apart);
  if (gains) multiply_gains(layer, which, index, out);
  if (apart) {
    for_rows(rows, [&](std::size_t i) {
      for (std::size_t j = i * layer.n; j < (i + 1) * layer.n; ++j) y[j] += out[j];
    });
  }
  add_low_rank(x, layer, which, index, y);
  if (activation == Activation::kNone) return;
  for_rows(rows, [&](std::size_t i) { kernels_.activate(activation, y + i * layer.n, layer.n); });
}

// Of DoRA: y = gain (y - bias) + bias, in the rows whose adapter has gains.
void Model::multiply_gains(const Linear& layer, LowRank LayerAdapter::*which, std::size_t index, float* y) {
  for (const Group& g : groups_) {
    const LowRank& change = g.adapter->layers[index].*which;
    if (change.gain.empty()) continue;
    for_rows(g.rows, [&](std::size_t i) {
      float* row = y + (g.first + i) * layer.n;
      for (std::size_t j = 0; j < layer.n; ++j) row[j] = change.gain[j] * (row[j] - layer.bias[j]) + layer.bias[j];
    });
  }
}

// y += (x A) B, each row with its own adapter's.
void Model::add_low_rank(const float* x, const Linear& layer, LowRank LayerAdapter::*which, std::size_t index,
                         float* y) {
  // Pieces of few rows, so that the threads share a long prompt; which rows come together changes no sum.
  pieces_.clear();
  for (const Group& g : groups_) {
    if ((g.adapter->layers[index].*which).rank == 0) continue;
    for (std::size_t at = 0; at < g.rows; at += kRowTask) {
      pieces_.push_back({g.adapter, g.first + at, std::min(kRowTask, g.rows - at)});
    }
  }
  const auto product = [&](const Group& p, const float* from, std::size_t ldx, const void* w, std::size_t k, float* to,
                           std::size_t ldy, bool accumulate, int thread) {
    kernels::Matmul a = {};
    a.x = from + p.first * ldx;
    a.ldx = ldx;
    a.w = w;
    a.dtype = kernels::DType::kF32;
    a.y = to + p.first * ldy;
    a.ldy = ldy;
    a.m = p.rows;
    a.k = k;
    a.accumulate = accumulate;
    a.scratch = scratch(thread);
    return a;
  };
  pool_.run(pieces_.size(), [&](std::size_t task, int thread) {
    const Group& p = pieces_[task];
    const LowRank& change = p.adapter->layers[index].*which;
    kernels::Matmul a = product(p, x, layer.k, change.a, layer.k, inner_rank_.data(), rank_room_, false, thread);
    a.last = change.rank;
    kernels_.matmul(a);
  });
  const std::size_t panels = (layer.n + kernels::kPanel - 1) / kernels::kPanel;
  const std::size_t each = (panels + kShares - 1) / kShares, shares = (panels + each - 1) / each;
  pool_.run(pieces_.size() * shares, [&](std::size_t task, int thread) {
    const Group& p = pieces_[task / shares];
    const LowRank& change = p.adapter->layers[index].*which;
    kernels::Matmul a = product(p, inner_rank_.data(), rank_room_, change.b, change.rank, y, layer.n, true, thread);
    a.first = task % shares * each * kernels::kPanel;
    a.last = std::min(layer.n, a.first + each * kernels::kPanel);
    kernels_.matmul(a);
  });
}

}  // namespace gpt2::model
