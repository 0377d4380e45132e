#include "model/weights.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "base/pages.h"
#include "model/pack.h"

namespace gpt2::model {
namespace {

using kernels::DType;
using kernels::kTile;
using kernels::round_up;
using Shape = std::vector<std::size_t>;

std::string text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

const char* text(Element type) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "int8", "uint8"};
  return kNames[static_cast<int>(type)];
}

const Tensor& get(const Tensors& tensors, const std::string& name, const Shape& shape) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error(ErrorKind::kWeights, "tensor " + name, "nothing", "shape " + text(shape));
  if (found->second.shape != shape) {
    throw Error(ErrorKind::kWeights, "tensor " + name, "shape " + text(found->second.shape), "shape " + text(shape));
  }
  return found->second;
}

const Tensor& get(const Tensors& tensors, const std::string& name, const Shape& shape, Element type) {
  const Tensor& t = get(tensors, name, shape);
  if (t.type != type) throw Error(ErrorKind::kWeights, "tensor " + name, text(t.type), text(type));
  return t;
}

DType float_dtype(const Tensor& t, const std::string& name) {
  if (t.type == Element::kF32) return DType::kF32;
  if (t.type == Element::kBF16) return DType::kBF16;
  throw Error(ErrorKind::kWeights, "tensor " + name, text(t.type), "float32 or bfloat16");
}

Vector vector(const Tensors& tensors, const std::string& name, std::size_t n) {
  const Tensor& t = get(tensors, name, {n});
  const DType dtype = float_dtype(t, name);
  Vector out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = kernels::load_weight(t.data, dtype, i);
  return out;
}

// Collects with one config and one set of tensors.
class Collector {
 public:
  Collector(const Tensors& tensors, const kernels::Kernels& kernels, ThreadPool& pool,
            std::vector<std::string>& borrowed)
      : tensors_(tensors), kernels_(kernels), pool_(pool), borrowed_(borrowed) {}

  // Rows of floats, used where they lie.
  Tensor embedding(const std::string& name, const Shape& shape) const {
    const Tensor& t = get(tensors_, name, shape);
    float_dtype(t, name);
    borrowed_.push_back(name);
    return t;
  }

  // turned: the float tensor lies as [n, k]. with_bias: there is NAME.bias beside NAME.weight.
  void linear(const std::string& name, std::size_t k, std::size_t n, bool turned, bool with_bias, Linear& out) {
    const std::string weight = name + ".weight";
    out.k = k;
    out.n = n;
    if (has(weight + ".q") || has(weight + ".q4")) {
      integers(weight, out);
    } else {
      const Tensor& t = get(tensors_, weight, turned ? Shape{n, k} : Shape{k, n});
      out.dtype = float_dtype(t, weight);
      sources_.push_back({t.data, out.dtype, k, n, turned, t.mapped});
      packed_.push_back(&out);
    }
    if (with_bias) out.bias = vector(tensors_, name + ".bias", n);
  }

  // Packs what linear() has seen of floats; the memory holds them all.
  AlignedBytes pack_floats() const {
    AlignedBytes memory = pack(sources_, pool_);
    const std::byte* at = memory.data();
    for (Linear* l : packed_) {
      l->data = at;
      at += kernels::packed_bytes(l->dtype, l->k, l->n);
    }
    return memory;
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

 private:
  void integers(const std::string& weight, Linear& out) const {
    out.dtype = has(weight + ".q") ? DType::kI8 : DType::kI4;
    if (out.k > kernels::kMaxQuantizedK) {
      throw Error(ErrorKind::kWeights, "tensor " + weight, std::to_string(out.k) + " inputs",
                  "at most " + std::to_string(kernels::kMaxQuantizedK) + ": sums of integers are 32 bits wide");
    }
    const std::size_t tiles = round_up(out.n, kTile) / kTile, kp = out.padded_k();
    const Vector scale = vector(tensors_, weight + ".scale", out.n);
    out.scale.assign(tiles * kTile, 0.0f);
    std::copy(scale.begin(), scale.end(), out.scale.begin());
    if (out.dtype == DType::kI8) {
      lines(weight + ".q", {tiles, kp / 4, kTile, 4}, Element::kI8, out);
      zeros(weight, out);
    } else {
      lines(weight + ".q4", {tiles, kp / 8, kTile, 4}, Element::kU8, out);
      groups(weight, tiles, kp, out);
    }
    sum(out);
  }

  // Kernels load whole lines; a file need not begin its tensors on one.
  void lines(const std::string& name, const Shape& shape, Element type, Linear& out) const {
    const Tensor& t = get(tensors_, name, shape, type);
    out.data = t.data;
    if (reinterpret_cast<std::uintptr_t>(t.data) % kernels::kLine == 0) return borrowed_.push_back(name);
    out.own = AlignedBytes(kernels::packed_bytes(out.dtype, out.k, out.n));
    std::memcpy(out.own.data(), t.data, out.own.size());
    out.data = out.own.data();
    if (t.mapped) release_pages(t.data, out.own.size());
  }

  void zeros(const std::string& weight, Linear& out) const {
    if (!has(weight + ".zero")) return;
    const Tensor& t = get(tensors_, weight + ".zero", {out.n}, Element::kI8);
    out.zero.assign(round_up(out.n, kTile), 0);
    std::memcpy(out.zero.data(), t.data, out.n);
  }

  void groups(const std::string& weight, std::size_t tiles, std::size_t kp, Linear& out) const {
    const auto found = tensors_.find(weight + ".mult");
    const Shape shape = found == tensors_.end() ? Shape{} : found->second.shape;
    out.group = shape.size() == 3 && shape[1] > 0 ? kp / shape[1] : 0;
    if (out.group != 32 && out.group != 64 && out.group != 128) out.group = 32;  // then get() says what is wrong
    const Shape want = {tiles, kp / out.group, kTile};
    out.mult = static_cast<const std::uint8_t*>(get(tensors_, weight + ".mult", want, Element::kU8).data);
    borrowed_.push_back(weight + ".mult");
    if (has(weight + ".offset")) {
      borrowed_.push_back(weight + ".offset");
      out.offset = static_cast<const std::int8_t*>(get(tensors_, weight + ".offset", want, Element::kI8).data);
    }
    check_groups(weight, out, tiles * (kp / out.group) * kTile);
  }

  // Every weight must be a whole number of 8 bits: the kernels' sums rely on it.
  static void check_groups(const std::string& weight, const Linear& l, std::size_t count) {
    bool good = true;
    for (std::size_t i = 0; i < count; ++i) {
      const int mult = l.mult[i], least = l.offset == nullptr ? -8 * mult : l.offset[i];
      good &= mult >= 1 && mult <= 15 && least + 15 * mult <= 127;
    }
    if (good) return;
    throw Error(ErrorKind::kWeights, "tensor " + weight + ".mult", "a group of weights outside -128 to 127",
                "mult from 1 to 15 and mult * 15 + offset at most 127");
  }

  // The sums of w8 over k are what a row of ones gives: below 2^24, and so exact as floats.
  void sum(Linear& out) const {
    const std::size_t padded = round_up(out.n, kTile), kp = out.padded_k();
    std::vector<std::uint8_t> ones(kp, 0);
    std::fill_n(ones.begin(), out.k, std::uint8_t{1});
    std::vector<std::int32_t> runs(kp / kernels::kSumRun);
    for (std::size_t t = 0; t < out.k; ++t) ++runs[t / kernels::kSumRun];
    const Vector scale(padded, 1.0f);
    const std::vector<std::int32_t> none(padded, 0);
    Vector sums(padded);
    const float one = 1.0f;
    const std::int32_t zero = 0;
    const std::size_t scratch = kernels::matmul_q_scratch(kp);
    std::vector<AlignedBytes> memory;
    for (int t = 0; t < pool_.threads(); ++t) memory.emplace_back(scratch);
    pool_.run((out.n + kernels::kPanel - 1) / kernels::kPanel, [&](std::size_t task, int thread) {
      kernels::MatmulQ a = {};
      a.x = ones.data();
      a.ldx = kp;
      a.xscale = &one;
      a.xzero = &zero;
      a.xsums = runs.data();
      a.ldsums = runs.size();
      a.w = out.data;
      a.dtype = out.dtype;
      a.mult = out.mult;
      a.offset = out.offset;
      a.group = out.group;
      a.scale = scale.data();
      a.wsum = none.data();
      a.y = sums.data();
      a.ldy = padded;
      a.m = 1;
      a.k = out.k;
      a.first = task * kernels::kPanel;
      a.last = std::min(out.n, a.first + kernels::kPanel);
      a.scratch = memory[static_cast<std::size_t>(thread)].data();
      kernels_.matmul_q(a);
    });
    out.sums.resize(padded);
    for (std::size_t j = 0; j < out.n; ++j) out.sums[j] = static_cast<std::int32_t>(sums[j]);
  }

  const Tensors& tensors_;
  const kernels::Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<std::string>& borrowed_;
  std::vector<Source> sources_;
  std::vector<Linear*> packed_;
};

void layer(const Config& c, const Tensors& tensors, Collector& collector, const std::string& prefix, Layer& l) {
  l.ln_1_gain = vector(tensors, prefix + "ln_1.weight", c.embd);
  l.ln_1_bias = vector(tensors, prefix + "ln_1.bias", c.embd);
  collector.linear(prefix + "attn.c_attn", c.embd, 3 * c.embd, false, true, l.attn);
  collector.linear(prefix + "attn.c_proj", c.embd, c.embd, false, true, l.attn_proj);
  l.ln_2_gain = vector(tensors, prefix + "ln_2.weight", c.embd);
  l.ln_2_bias = vector(tensors, prefix + "ln_2.bias", c.embd);
  collector.linear(prefix + "mlp.c_fc", c.embd, c.inner, false, true, l.fc);
  collector.linear(prefix + "mlp.c_proj", c.inner, c.embd, false, true, l.fc_proj);
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

kernels::DType cache_dtype_named(const std::string& name) {
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "int8") return DType::kI8;
  throw Error(ErrorKind::kInvalidRequest, "cache", "'" + name + "'", "float32, bfloat16 or int8");
}

std::size_t Linear::bytes() const {
  return kernels::packed_bytes(dtype, k, n) + (dtype == DType::kI4 ? padded_k() / group * round_up(n, kTile) : 0);
}

std::size_t Weights::bytes() const {
  std::size_t n = head.bytes();
  for (const Layer& l : layers) n += l.attn.bytes() + l.attn_proj.bytes() + l.fc.bytes() + l.fc_proj.bytes();
  return n;
}

void Embedding::read(std::size_t row, float* y, std::size_t n, bool add) const {
  if (columns == nullptr) {
    const DType dtype = rows.type == Element::kF32 ? DType::kF32 : DType::kBF16;
    for (std::size_t j = 0; j < n; ++j) {
      const float v = kernels::load_weight(rows.data, dtype, row * n + j);
      y[j] = add ? y[j] + v : v;
    }
    return;
  }
  columns->column(row, y, add);
}

void Linear::column(std::size_t output, float* y, bool add) const {
  const std::size_t depth = kernels::depth_of(dtype), tile = output / kTile, lane = output % kTile;
  const auto* lines = static_cast<const std::uint8_t*>(data) + tile * kernels::tile_bytes(dtype, k);
  const std::size_t groups = group == 0 ? 0 : padded_k() / group;
  for (std::size_t t = 0; t < k; ++t) {
    const std::uint8_t* line = lines + t / depth * kernels::kLine;
    float v;
    if (!integer()) {
      v = kernels::load_weight(line, dtype, lane * depth + t % depth);
    } else {
      const std::uint8_t byte = line[lane * 4 + t % 4];
      std::int32_t value = static_cast<std::int8_t>(byte);
      if (dtype == DType::kI4) {
        const std::size_t at = (tile * groups + t / group) * kTile + lane;
        const std::int32_t code = t % depth < 4 ? byte & 15 : byte >> 4;
        value = mult[at] * code + (offset == nullptr ? -8 * mult[at] : offset[at]);
      } else if (!zero.empty()) {
        value -= zero[output];
      }
      v = scale[output] * static_cast<float>(value);
    }
    y[t] = add ? y[t] + v : v;
  }
}

void collect(const Config& c, const Tensors& tensors, const kernels::Kernels& kernels, ThreadPool& pool, Weights& w) {
  Collector collector(tensors, kernels, pool, w.borrowed);
  if (collector.has("wte.weight")) {
    w.wte.rows = collector.embedding("wte.weight", {c.vocab, c.embd});
  } else if (c.tied) {
    w.wte.columns = &w.head;
  } else {
    collector.linear("wte", c.embd, c.vocab, true, false, w.token_columns);
    w.wte.columns = &w.token_columns;
  }
  w.wpe.rows = collector.embedding("wpe.weight", {c.positions, c.embd});
  w.ln_f_gain = vector(tensors, "ln_f.weight", c.embd);
  w.ln_f_bias = vector(tensors, "ln_f.bias", c.embd);
  w.layers.resize(c.layers);
  for (std::size_t i = 0; i < c.layers; ++i) {
    layer(c, tensors, collector, "h." + std::to_string(i) + ".", w.layers[i]);
  }
  collector.linear(c.tied ? "wte" : "lm_head", c.embd, c.vocab, true, false, w.head);
  w.packed = collector.pack_floats();
}

}  // namespace gpt2::model
