// Every kernel of the instruction set named by GPT2_ISA, against double arithmetic, within the bound of its contract;
// and the promise that a row's bits depend on nothing but the row.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "base/aligned.h"
#if defined(__x86_64__)
#include "kernels/avx512bf16/plain.h"
#endif
#include "tests/random.h"
#include "tests/tables.h"

namespace {

using namespace gpt2;
using namespace gpt2::kernels;

constexpr double kU = 5.9604644775390625e-8;  // 2^-24

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

// Packed tiles of W [k, n] given as [k][n], in the storage asked for.
AlignedBytes packed(DType dtype, std::size_t k, std::size_t n, const std::vector<float>& w) {
  AlignedBytes out(packed_bytes(dtype, k, n));
  std::memset(out.data(), 0, out.size());
  const std::size_t depth = depth_of(dtype);
  for (std::size_t t = 0; t < k; ++t) {
    for (std::size_t j = 0; j < n; ++j) {
      std::byte* line = out.data() + j / kTile * tile_bytes(dtype, k) + t / depth * kLine;
      const std::size_t at = j % kTile * depth + t % depth;
      if (dtype == DType::kF32) {
        std::memcpy(line + at * 4, &w[t * n + j], 4);
      } else {
        const std::uint16_t bits = narrow_bf16(w[t * n + j]);
        std::memcpy(line + at * 2, &bits, 2);
      }
    }
  }
  return out;
}

// One matmul problem with all its memory; x is read at an odd offset so that nothing is aligned by luck.
struct Problem {
  std::size_t m, k, n;
  DType dtype;
  std::vector<float> x, bias, y0, w;
  AlignedBytes tiles;
  AlignedFloats scratch;

  Problem(std::size_t m_, std::size_t k_, std::size_t n_, DType dtype_)
      : m(m_),
        k(k_),
        n(n_),
        dtype(dtype_),
        x(random(m_ * k_ + 1, 1)),
        bias(random(n_, 2)),
        y0(random(m_ * n_, 3)),
        w(random(k_ * n_, 4)),
        tiles(packed(dtype_, k_, n_, w)),
        scratch(matmul_scratch(m_)) {}

  float weight(std::size_t t, std::size_t j) const {
    return dtype == DType::kF32 ? w[t * n + j] : widen_bf16(narrow_bf16(w[t * n + j]));
  }

  std::vector<float> run(const Kernels& kernels, std::size_t row, std::size_t rows, std::size_t first, std::size_t last,
                         bool accumulate, Activation activation) {
    std::vector<float> y(y0.begin() + static_cast<std::ptrdiff_t>(row * n),
                         y0.begin() + static_cast<std::ptrdiff_t>((row + rows) * n));
    Matmul a = {};
    a.x = x.data() + 1 + row * k;
    a.ldx = k;
    a.w = tiles.data();
    a.dtype = dtype;
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
    std::vector<std::uint16_t> narrow_x;
    if (kernels.narrow != nullptr && dtype == DType::kBF16) {
      a.narrow_ldx = round_up(k, kNarrowK);
      narrow_x.resize(rows * a.narrow_ldx);
      for (std::size_t i = 0; i < rows; ++i) kernels.narrow(a.x + i * k, k, a.narrow_ldx, &narrow_x[i * a.narrow_ldx]);
      a.narrow_x = narrow_x.data();
      a.x = nullptr;
    }
    kernels.matmul(a);
    return y;
  }
};

// The bound of matmul.h for the sum of absolute products; the narrow form's denormals do not matter to these values.
double bound_of(const Problem& p, double products, double bias) {
  const bool narrow = table().narrow != nullptr && p.dtype == DType::kBF16;
  const std::size_t terms = narrow && !by_pairs() ? std::min(p.k, 16 + p.k / 32) : p.k;
  const double g = static_cast<double>(terms + 4) * kU;
  if (narrow) return products / 256 + g * (1 + 1.0 / 256) * (products + bias);
  return g / (1 - g) * (products + bias);
}

void check_problem(Problem& p) {
  const std::vector<float> y = p.run(table(), 0, p.m, 0, p.n, false, Activation::kNone);
  const std::vector<float> sum = p.run(table(), 0, p.m, 0, p.n, true, Activation::kNone);
  for (std::size_t i = 0; i < p.m; ++i) {
    for (std::size_t j = 0; j < p.n; ++j) {
      double exact = p.bias[j], size = 0;
      for (std::size_t t = 0; t < p.k; ++t) {
        const double product = static_cast<double>(p.x[1 + i * p.k + t]) * p.weight(t, j);
        exact += product;
        size += std::fabs(product);
      }
      const double bound = bound_of(p, size, std::fabs(p.bias[j]));
      const double before = p.y0[i * p.n + j];
      INFO("m ", p.m, " k ", p.k, " n ", p.n, " at row ", i, " column ", j);
      REQUIRE(std::fabs(y[i * p.n + j] - exact) <= bound);
      REQUIRE(std::fabs(sum[i * p.n + j] - (before + exact)) <= bound + kU * (std::fabs(before + exact) + bound));
    }
  }
}

TEST_CASE("matmul is within its bound for odd and even shapes") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::size_t m : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 19, 33}) {
      for (const auto& [k, n] :
           {std::pair<std::size_t, std::size_t>{1, 1}, {7, 3}, {8, 16}, {17, 65}, {64, 64}, {385, 130}, {33, 15}}) {
        Problem p(m, k, n, dtype);
        check_problem(p);
      }
    }
  }
}

TEST_CASE("a row's bits do not depend on the other rows, nor a column's on the range asked for") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem p(35, 401, 203, dtype);
    const std::vector<float> all = p.run(table(), 0, p.m, 0, p.n, false, Activation::kGeluTanh);
    for (const std::size_t rows : {1, 2, 3, 4, 7, 12, 13, 17}) {
      for (std::size_t row = 0; row + rows <= p.m; row += rows) {
        const std::vector<float> some = p.run(table(), row, rows, 0, p.n, false, Activation::kGeluTanh);
        for (std::size_t i = 0; i < rows * p.n; ++i) REQUIRE(some[i] == all[row * p.n + i]);
      }
    }
    for (std::size_t first = 0; first < p.n; first += 48) {
      const std::size_t last = std::min(p.n, first + 48);
      const std::vector<float> part = p.run(table(), 0, p.m, first, last, false, Activation::kGeluTanh);
      for (std::size_t i = 0; i < p.m; ++i) {
        for (std::size_t j = first; j < last; ++j) REQUIRE(part[i * p.n + j] == all[i * p.n + j]);
      }
    }
  }
}

TEST_CASE("every instruction set gives the bits of the plain loops, but for bfloat16 where x is narrowed too") {
  const Kernels plain = kernels_for(Isa::kGeneric);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (table().narrow != nullptr && dtype == DType::kBF16) continue;
    for (const Activation a : {Activation::kNone, Activation::kGeluTanh, Activation::kRelu, Activation::kSilu,
                               Activation::kQuickGelu, Activation::kGeluErf, Activation::kTanh}) {
      Problem p(7, 387, 83, dtype);
      const std::vector<float> want = p.run(plain, 0, p.m, 0, p.n, false, a);
      const std::vector<float> got = p.run(table(), 0, p.m, 0, p.n, false, a);
      for (std::size_t i = 0; i < want.size(); ++i) REQUIRE(want[i] == got[i]);
    }
  }
  for (std::size_t n = 1; n < 100; ++n) {
    const std::vector<float> x = random(n, 6, 2.0f), gain = random(n, 7), bias = random(n, 8);
    std::vector<float> want(n), got(n);
    plain.layer_norm(x.data(), gain.data(), bias.data(), 1e-5f, want.data(), n);
    table().layer_norm(x.data(), gain.data(), bias.data(), 1e-5f, got.data(), n);
    for (std::size_t j = 0; j < n; ++j) REQUIRE(want[j] == got[j]);
  }
}

#if defined(__x86_64__)
TEST_CASE("products of bfloat16 pairs have the bits of their plain loops") {
  if (!by_pairs()) return;
  Kernels plain = table();
  plain.matmul = avx512bf16::kPlainMatmul;
  plain.narrow = avx512bf16::kPlainNarrow;
  for (const std::size_t m : {1, 5, 6, 7, 13}) {
    for (const auto& [k, n] : {std::pair<std::size_t, std::size_t>{1, 1}, {33, 17}, {64, 64}, {387, 83}, {768, 130}}) {
      Problem p(m, k, n, DType::kBF16);
      for (std::size_t i = 0; i < p.x.size(); i += 3) p.x[i] *= 0x1p-120f;  // products and sums among denormals, too
      for (const bool accumulate : {false, true}) {
        const std::vector<float> want = p.run(plain, 0, m, 0, n, accumulate, Activation::kNone);
        const std::vector<float> got = p.run(table(), 0, m, 0, n, accumulate, Activation::kNone);
        for (std::size_t i = 0; i < want.size(); ++i) REQUIRE(want[i] == got[i]);
      }
    }
  }
}

TEST_CASE("a pair is two roundings, the second element first, and denormals are zeros") {
  const auto dot = [](float acc, float x0, float w0, float x1, float w1) {
    const std::uint16_t x[] = {narrow_bf16(x0), narrow_bf16(x1)}, w[] = {narrow_bf16(w0), narrow_bf16(w1)};
    return avx512bf16::plain_dot(acc, x, w);
  };
  const float big = 16777216.0f;  // 2^24: one more is lost
  CHECK(dot(3.0f, 2.0f, 5.0f, 7.0f, 11.0f) == 90.0f);
  CHECK(dot(0.0f, 1.0f, 1.0f, big, 1.0f) == big);   // 1 is added to 2^24
  CHECK(dot(0.0f, big, 1.0f, 1.0f, 1.0f) == big);   // and 2^24 to 1
  CHECK(dot(1.0f, -big, 1.0f, big, 1.0f) == 0.0f);  // the second first: 1 is lost
  CHECK(dot(1.0f, big, 1.0f, -big, 1.0f) == 1.0f);  // -2^24 + 1 is a float
  CHECK(dot(0.0f, 0x1p-100f, 0x1p-27f, 0.0f, 0.0f) == 0.0f);
  CHECK(dot(0x1p-149f, 1.0f, 0x1p-126f, 0.0f, 0.0f) == 0x1p-126f);
}
#endif

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

// Keys and values of `positions` positions in blocks; what lies beyond them is 0xff bytes (NaN as a float, in an int8
// cache as a scale), which must never reach a result.
struct CacheMemory {
  HeadLayout layout;
  std::vector<AlignedBytes> blocks;
  std::vector<const std::byte*> pointers;
  std::vector<float> keys, values;  // as stored, that is rounded

  CacheMemory(DType dtype, std::size_t positions, std::size_t d)
      : layout{dtype, d}, keys(random(positions * d, 11)), values(random(positions * d, 12)) {
    for (std::size_t b = 0; b * kBlock < positions; ++b) {
      blocks.emplace_back(layout.bytes());
      std::memset(blocks.back().data(), 0xff, layout.bytes());
      for (std::size_t s = 0; s < kBlock && b * kBlock + s < positions; ++s) {
        const std::size_t at = (b * kBlock + s) * d;
        write_head(layout, blocks.back().data(), s, keys.data() + at, values.data() + at);
        for (std::size_t i = 0; i < d; ++i) {
          check_stored(keys[at + i], stored(b, s, 0, layout.key_scales(), i * kBlock + s), &keys[at], d);
          check_stored(values[at + i],
                       stored(b, s, layout.values(), layout.value_scales(), s * layout.value_stride() + i), &values[at],
                       d);
        }
      }
    }
    for (std::size_t b = 0; b * kBlock < positions; ++b) {
      for (std::size_t s = 0; s < kBlock && b * kBlock + s < positions; ++s) {
        const std::size_t at = (b * kBlock + s) * d;
        for (std::size_t i = 0; i < d; ++i) {
          keys[at + i] = stored(b, s, 0, layout.key_scales(), i * kBlock + s);
          values[at + i] = stored(b, s, layout.values(), layout.value_scales(), s * layout.value_stride() + i);
        }
      }
    }
    for (const AlignedBytes& block : blocks) pointers.push_back(block.data());
  }

  float stored(std::size_t block, std::size_t slot, std::size_t at, std::size_t scales, std::size_t i) const {
    const std::byte* head = blocks[block].data();
    if (layout.dtype != DType::kI8) return load_weight(head + at, layout.dtype, i);
    const float scale = reinterpret_cast<const float*>(head + scales)[slot];
    return static_cast<float>(reinterpret_cast<const std::int8_t*>(head + at)[i]) * scale;
  }

  void check_stored(float given, float kept, const float* head, std::size_t d) const {
    float top = 0.0f;
    for (std::size_t i = 0; i < d; ++i) top = std::max(top, std::fabs(head[i]));
    const double bound = layout.dtype == DType::kF32    ? 0.0
                         : layout.dtype == DType::kBF16 ? std::fabs(given) / 256.0
                                                        : top / 254.0 * (1 + 1e-6);
    REQUIRE(std::fabs(double{given} - kept) <= bound);
  }
};

std::vector<float> attend(const Kernels& kernels, const CacheMemory& cache, const float* q, std::size_t m,
                          std::size_t start) {
  const std::size_t d = cache.layout.head_dim;
  std::vector<float> out(m * d, -1.0f);
  AlignedFloats scratch(attention_scratch(start + m));
  Attention a = {};
  a.q = q;
  a.ldq = d;
  a.blocks = cache.pointers.data();
  a.layout = cache.layout;
  a.out = out.data();
  a.ldo = d;
  a.m = m;
  a.start = start;
  a.scale = 1.0f / std::sqrt(static_cast<float>(d));
  a.scratch = scratch.data();
  kernels.attention(a);
  return out;
}

void check_attention(const CacheMemory& cache, std::size_t positions) {
  const std::size_t d = cache.layout.head_dim;
  const std::vector<float> q = random(positions * d, 13);
  const std::vector<float> all = attend(table(), cache, q.data(), positions, 0);
  const std::vector<float> plain = attend(kernels_for(Isa::kGeneric), cache, q.data(), positions, 0);
  for (std::size_t i = 0; i < all.size(); ++i) REQUIRE(all[i] == plain[i]);
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
      const std::vector<float> some = attend(table(), cache, q.data() + i * d, rows, i);
      for (std::size_t c = 0; c < rows * d; ++c) REQUIRE(some[c] == all[i * d + c]);
    }
  }
}

TEST_CASE("attention equals double arithmetic, and a row alone equals the row in a pass") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const std::size_t d : {1, 5, 16, 24, 64, 80}) {
      for (const std::size_t positions : {1, 2, 15, 63, 64, 65, 130, 200}) {
        check_attention(CacheMemory(dtype, positions, d), positions);
      }
    }
  }
}

}  // namespace
