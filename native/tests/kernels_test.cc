// Every kernel of the instruction set named by GPT2_ISA, against double arithmetic, within the bound of its contract;
// and the promise that a row's bits depend on nothing but the row.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "base/aligned.h"
#include "kernels/table.h"

namespace {

using namespace gpt2;
using namespace gpt2::kernels;

constexpr double kU = 5.9604644775390625e-8;  // 2^-24

const Kernels& table() {
  const char* isa = std::getenv("GPT2_ISA");
  return kernels_for(choose_isa(isa == nullptr ? "auto" : isa));
}

std::vector<float> random(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(bits);
  return out;
}

std::vector<std::uint16_t> narrow(const std::vector<float>& in) {
  std::vector<std::uint16_t> out(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = narrow_bf16(in[i]);
  return out;
}

double exact_activation(Activation a, double x) {
  switch (a) {
    case Activation::kNone: return x;
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu: return x > 0 ? x : 0;
    case Activation::kSilu: return x / (1 + std::exp(-x));
    case Activation::kQuickGelu: return x / (1 + std::exp(-1.702 * x));
    case Activation::kTanh: return std::tanh(x);
  }
  return x;
}

// One matmul problem with all its memory; x and w are read at an odd offset so that nothing is aligned by luck.
struct Problem {
  std::size_t m, k, n;
  DType dtype;
  bool kn;
  std::vector<float> x, bias, y0;
  std::vector<float> w32;
  std::vector<std::uint16_t> w16;
  AlignedFloats scratch;

  Problem(std::size_t m_, std::size_t k_, std::size_t n_, DType dtype_, bool kn_)
      : m(m_),
        k(k_),
        n(n_),
        dtype(dtype_),
        kn(kn_),
        x(random(m_ * k_ + 1, 1)),
        bias(random(n_, 2)),
        y0(random(m_ * n_, 3)),
        w32(random(k_ * n_ + 1, 4)),
        w16(narrow(w32)),
        scratch(matmul_scratch(m_)) {}

  float weight(std::size_t t, std::size_t j) const {
    const std::size_t i = 1 + (kn ? t * n + j : j * k + t);
    return dtype == DType::kF32 ? w32[i] : widen_bf16(w16[i]);
  }

  std::vector<float> run(std::size_t row, std::size_t rows, std::size_t first, std::size_t last, bool accumulate,
                         Activation activation) {
    std::vector<float> y(y0.begin() + static_cast<std::ptrdiff_t>(row * n),
                         y0.begin() + static_cast<std::ptrdiff_t>((row + rows) * n));
    Matmul a = {};
    a.x = x.data() + 1 + row * k;
    a.ldx = k;
    a.w = dtype == DType::kF32 ? static_cast<const void*>(w32.data() + 1) : static_cast<const void*>(w16.data() + 1);
    a.dtype = dtype;
    a.ldw = kn ? n : k;
    a.bias = bias.data();
    a.y = y.data();
    a.ldy = n;
    a.m = rows;
    a.k = k;
    a.first = first;
    a.last = last;
    a.activation = activation;
    a.accumulate = accumulate;
    a.scratch = scratch.data();
    (kn ? table().matmul_kn : table().matmul_nk)(a);
    return y;
  }
};

void check_problem(Problem& p) {
  const std::vector<float> y = p.run(0, p.m, 0, p.n, false, Activation::kNone);
  const std::vector<float> sum = p.run(0, p.m, 0, p.n, true, Activation::kNone);
  for (std::size_t i = 0; i < p.m; ++i) {
    for (std::size_t j = 0; j < p.n; ++j) {
      double exact = p.bias[j], size = std::fabs(exact);
      for (std::size_t t = 0; t < p.k; ++t) {
        const double product = static_cast<double>(p.x[1 + i * p.k + t]) * p.weight(t, j);
        exact += product;
        size += std::fabs(product);
      }
      const double g = static_cast<double>(p.k + 4) * kU;
      const double bound = g / (1 - g) * size;
      const double before = p.y0[i * p.n + j];
      INFO("m ", p.m, " k ", p.k, " n ", p.n, " at row ", i, " column ", j);
      REQUIRE(std::fabs(y[i * p.n + j] - exact) <= bound);
      REQUIRE(std::fabs(sum[i * p.n + j] - (before + exact)) <= bound + kU * (std::fabs(before + exact) + bound));
    }
  }
}

TEST_CASE("matmul is within its bound for odd and even shapes") {
  for (const bool kn : {true, false}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const std::size_t m : {1, 2, 3, 5, 6, 11, 12, 13, 19}) {
        for (const auto& [k, n] :
             {std::pair<std::size_t, std::size_t>{1, 1}, {7, 3}, {8, 16}, {17, 65}, {64, 64}, {385, 130}, {33, 15}}) {
          Problem p(m, k, n, dtype, kn);
          check_problem(p);
        }
      }
    }
  }
}

TEST_CASE("a row's bits do not depend on the other rows, nor a column's on the range asked for") {
  for (const bool kn : {true, false}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Problem p(29, 401, 203, dtype, kn);
      const std::vector<float> all = p.run(0, p.m, 0, p.n, false, Activation::kGeluTanh);
      for (const std::size_t rows : {1, 2, 3, 4, 7, 12, 13}) {
        for (std::size_t row = 0; row + rows <= p.m; row += rows) {
          const std::vector<float> some = p.run(row, rows, 0, p.n, false, Activation::kGeluTanh);
          for (std::size_t i = 0; i < rows * p.n; ++i) REQUIRE(some[i] == all[row * p.n + i]);
        }
      }
      for (std::size_t first = 0; first < p.n; first += 37) {
        const std::size_t last = std::min(p.n, first + 37);
        const std::vector<float> part = p.run(0, p.m, first, last, false, Activation::kGeluTanh);
        for (std::size_t i = 0; i < p.m; ++i) {
          for (std::size_t j = first; j < last; ++j) REQUIRE(part[i * p.n + j] == all[i * p.n + j]);
        }
      }
    }
  }
}

TEST_CASE("activations") {
  const Activation kAll[] = {Activation::kNone, Activation::kGeluTanh,  Activation::kGeluErf, Activation::kRelu,
                             Activation::kSilu, Activation::kQuickGelu, Activation::kTanh};
  std::vector<float> x = random(1000, 5, 3.0f);
  for (const float edge : {0.0f, -0.0f, 1e-30f, -1e-30f, 20.0f, -20.0f, 88.0f, -88.0f, 1e4f, -1e4f, 3e38f, -3e38f}) {
    x.push_back(edge);
  }
  for (const Activation a : kAll) {
    std::vector<float> y = x;
    table().activate(a, y.data(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = exact_activation(a, x[i]);
      INFO("activation ", static_cast<int>(a), " of ", x[i]);
      // The result is x times a gate in [0, 1]; the gate is right to a few ulp of 1 where it is computed as 1 + tanh.
      REQUIRE(std::fabs(y[i] - exact) <= 16 * kU * std::max(std::fabs(exact), std::min(std::fabs(double{x[i]}), 32.0)));
    }
    for (std::size_t n = 0; n < 40; ++n) {  // the tail gives the bits of the body
      std::vector<float> part(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n));
      table().activate(a, part.data(), n);
      for (std::size_t i = 0; i < n; ++i) REQUIRE(part[i] == y[i]);
    }
    float nan = NAN;
    table().activate(a, &nan, 1);
    REQUIRE(std::isnan(nan));
  }
}

TEST_CASE("layer norm") {
  for (std::size_t n = 1; n < 70; ++n) {
    const std::vector<float> x = random(n, 6, 2.0f), gain = random(n, 7), bias = random(n, 8);
    std::vector<float> y(n);
    table().layer_norm(x.data(), gain.data(), bias.data(), 1e-5f, y.data(), n);
    double mean = 0, variance = 0, size = 0;
    for (float v : x) mean += v, size += std::fabs(v);
    mean /= static_cast<double>(n), size /= static_cast<double>(n);
    for (float v : x) variance += (v - mean) * (v - mean);
    const double sigma = std::sqrt(variance / static_cast<double>(n) + 1e-5);
    for (std::size_t j = 0; j < n; ++j) {
      const double exact = (x[j] - mean) / sigma * gain[j] + bias[j];
      const double bound =
          static_cast<double>(n + 8) * kU * (std::fabs(x[j] - mean) + size) / sigma * std::fabs(gain[j]) +
          4 * kU * (std::fabs(exact) + std::fabs(bias[j]));
      INFO("n ", n, " at ", j);
      REQUIRE(std::fabs(y[j] - exact) <= bound);
    }
  }
}

TEST_CASE("embedding adds two rows of either storage") {
  for (std::size_t n = 1; n < 40; ++n) {
    const std::vector<float> a = random(n + 1, 9), b = random(n + 1, 10);
    const std::vector<std::uint16_t> a16 = narrow(a), b16 = narrow(b);
    std::vector<float> y(n);
    table().embed(a.data() + 1, b.data() + 1, DType::kF32, y.data(), n);
    for (std::size_t j = 0; j < n; ++j) REQUIRE(y[j] == a[j + 1] + b[j + 1]);
    table().embed(a16.data() + 1, b16.data() + 1, DType::kBF16, y.data(), n);
    for (std::size_t j = 0; j < n; ++j) REQUIRE(y[j] == widen_bf16(a16[j + 1]) + widen_bf16(b16[j + 1]));
  }
}

// Keys and values of `positions` positions in blocks; what lies beyond them is NaN, which must never reach a result.
struct CacheMemory {
  std::vector<AlignedFloats> blocks;
  std::vector<const float*> pointers;
  std::vector<float> keys, values;

  CacheMemory(std::size_t positions, std::size_t d)
      : keys(random(positions * d, 11)), values(random(positions * d, 12)) {
    for (std::size_t b = 0; b * kBlock < positions; ++b) {
      blocks.emplace_back(block_floats(d));
      float* block = blocks.back().data();
      for (std::size_t i = 0; i < block_floats(d); ++i) block[i] = NAN;
      for (std::size_t s = 0; s < kBlock && b * kBlock + s < positions; ++s) {
        for (std::size_t i = 0; i < d; ++i) {
          block[i * kBlock + s] = keys[(b * kBlock + s) * d + i];
          block[d * kBlock + s * d + i] = values[(b * kBlock + s) * d + i];
        }
      }
    }
    for (const AlignedFloats& block : blocks) pointers.push_back(block.data());
  }
};

std::vector<float> attend(const CacheMemory& cache, const float* q, std::size_t m, std::size_t start, std::size_t d) {
  std::vector<float> out(m * d, -1.0f);
  AlignedFloats scratch(attention_scratch(start + m));
  Attention a = {};
  a.q = q;
  a.ldq = d;
  a.blocks = cache.pointers.data();
  a.out = out.data();
  a.ldo = d;
  a.m = m;
  a.start = start;
  a.head_dim = d;
  a.scale = 1.0f / std::sqrt(static_cast<float>(d));
  a.scratch = scratch.data();
  table().attention(a);
  return out;
}

TEST_CASE("attention equals double arithmetic, and a row alone equals the row in a pass") {
  for (const std::size_t d : {1, 5, 16, 24, 64, 80}) {
    for (const std::size_t positions : {1, 2, 15, 63, 64, 65, 130, 200}) {
      const CacheMemory cache(positions, d);
      const std::vector<float> q = random(positions * d, 13);
      const std::vector<float> all = attend(cache, q.data(), positions, 0, d);
      for (std::size_t i = 0; i < positions; ++i) {
        std::vector<double> p(i + 1);
        double top = -INFINITY, total = 0;
        for (std::size_t j = 0; j <= i; ++j) {
          for (std::size_t c = 0; c < d; ++c) p[j] += double{q[i * d + c]} * cache.keys[j * d + c];
          p[j] /= std::sqrt(static_cast<double>(d));
          top = std::max(top, p[j]);
        }
        for (double& v : p) total += v = std::exp(v - top);
        for (std::size_t c = 0; c < d; ++c) {
          double exact = 0, size = 0;
          for (std::size_t j = 0; j <= i; ++j) {
            exact += p[j] / total * cache.values[j * d + c];
            size += p[j] / total * std::fabs(cache.values[j * d + c]);
          }
          INFO("D ", d, " position ", i, " component ", c);
          REQUIRE(std::fabs(all[i * d + c] - exact) <=
                  (static_cast<double>(i) + 40.0 * std::sqrt(static_cast<double>(d)) + 40) * kU * (size + 1e-3));
        }
      }
      for (const std::size_t rows : {1, 2, 5, 6, 7, 13}) {
        for (std::size_t i = 0; i + rows <= positions; i += rows) {
          const std::vector<float> some = attend(cache, q.data() + i * d, rows, i, d);
          for (std::size_t c = 0; c < rows * d; ++c) REQUIRE(some[c] == all[i * d + c]);
        }
      }
    }
  }
}

}  // namespace
