// The tile unit in plain C++ against what the manual says, by numbers worked out by hand; and where there is AMX, the
// real unit against it, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "kernels/amx/software.h"
#include "kernels/table.h"
#include "model/forward.h"

namespace {

using namespace gpt2;
using namespace gpt2::kernels;

// AMX is asked for by name: GPT2_ISA=amx on a machine that has it.
bool here() {
  const char* isa = std::getenv("GPT2_ISA");
  return isa != nullptr && std::string(isa) == "amx" && choose_isa(isa) == Isa::kAmx;
}

// One output of one product of tiles: row [32] of A and column [32] of B in bfloat16, added to `before`.
float dot(const std::vector<float>& row, const std::vector<float>& column, float before = 0.0f) {
  amx::Software unit;
  unit.configure(amx::config_for(1));
  std::uint16_t a[32] = {}, b[16][32] = {};
  for (std::size_t k = 0; k < row.size(); ++k) {
    a[k] = narrow_bf16(row[k]);
    b[k / 2][k % 2] = narrow_bf16(column[k]);
  }
  float c[16] = {before};
  unit.load<0>(reinterpret_cast<const std::byte*>(c), 64);
  unit.load<4>(reinterpret_cast<const std::byte*>(a), 64);
  unit.load<6>(reinterpret_cast<const std::byte*>(b), 64);
  unit.dot_pairs<0, 4, 6>();
  unit.store<0>(reinterpret_cast<std::byte*>(c), 64);
  return c[0];
}

TEST_CASE("products of bfloat16 have an even and an odd chain, then one addition") {
  const float big = 16777216.0f;  // 2^24: one more is lost in the same chain
  CHECK(dot({big, 0, 1, 0, -big, 0}, {1, 1, 1, 1, 1, 1}) == 0.0f);
  CHECK(dot({big, 1, -big, 0}, {1, 1, 1, 1}) == 1.0f);
  CHECK(dot({1, 0}, {1, 1}, big) == big);
  CHECK(dot({1, 2}, {1, 1}, big) == big + 4.0f);  // 3 is added whole, and rounds up
  CHECK(dot({3, 5}, {7, 11}, 1.0f) == 77.0f);
}

TEST_CASE("denormals are read and written as zeros") {
  CHECK(dot({0x1p-100f}, {0x1p-26f}) == 0x1p-126f);
  CHECK(dot({0x1p-100f}, {0x1p-27f}) == 0.0f);
  CHECK(dot({0x1p-130f}, {0x1p100f}) == 0.0f);
  CHECK(dot({0x1p-126f, 0x1p-126f}, {1.5f, -1.0f}) == 0.0f);
  CHECK(dot({1.0f}, {0x1p-126f}, 0x1p-149f) == 0x1p-126f);
  CHECK(generic::flushed_fma(0x1.fffffep-64f, 0x1.0p-63f, 0.0f) == 0.0f);  // rounds up only among denormals
  CHECK(std::isnan(dot({std::numeric_limits<float>::infinity()}, {0.0f})));
}

TEST_CASE("what the hardware would refuse is refused") {
  amx::Software unit;
  CHECK_THROWS_AS(unit.zero<0>(), std::logic_error);
  amx::TileConfig wrong = amx::config_for(20);
  wrong.rows[3] = 17;
  CHECK_THROWS_AS(unit.configure(wrong), std::logic_error);
  unit.configure(amx::config_for(20));
  CHECK_THROWS_AS((unit.dot_bytes<0, 5, 6>()), std::logic_error);  // 16 rows of C, 4 of A
  unit.configure(amx::config_for(5));
  CHECK_THROWS_AS(unit.zero<5>(), std::logic_error);
}

TEST_CASE("narrow rounds as narrow_bf16 does") {
  if (!has_avx512_vnni()) return;
  std::mt19937 bits(1);
  std::vector<float> x(1000);
  for (float& v : x) {
    const std::uint32_t random = static_cast<std::uint32_t>(bits());
    std::memcpy(&v, &random, 4);
  }
  x[3] = std::numeric_limits<float>::quiet_NaN(), x[4] = std::numeric_limits<float>::infinity();
  x[5] = std::numeric_limits<float>::max(), x[6] = 0x1p-149f;
  for (std::size_t n = 1; n < 100; ++n) {
    const std::size_t padded = round_up(n, kNarrowK);
    std::vector<std::uint16_t> out(padded, 9);
    amx::kSoftwareNarrow(x.data() + 1, n, padded, out.data());
    for (std::size_t j = 0; j < padded; ++j) REQUIRE(out[j] == (j < n ? narrow_bf16(x[1 + j]) : 0));
  }
}

// A bfloat16 model whose widths are not multiples of a tile.
struct SmallModel {
  model::Config config;
  std::map<std::string, std::vector<std::uint16_t>> data;
  model::Tensors tensors;
  std::mt19937 bits{7};

  void add(const std::string& name, std::vector<std::size_t> shape) {
    std::size_t n = 1;
    for (const std::size_t d : shape) n *= d;
    std::normal_distribution<float> normal(0.0f, 0.3f);
    std::vector<std::uint16_t>& values = data[name];
    for (std::size_t i = 0; i < n; ++i) values.push_back(narrow_bf16(normal(bits)));
    tensors[name] = {values.data(), model::Element::kBF16, std::move(shape)};
  }

  SmallModel() {
    config.vocab = 51, config.positions = 80, config.embd = 40, config.layers = 2, config.heads = 2, config.inner = 70;
    const std::size_t c = config.embd;
    add("wte.weight", {config.vocab, c}), add("wpe.weight", {config.positions, c});
    add("ln_f.weight", {c}), add("ln_f.bias", {c});
    for (std::size_t i = 0; i < config.layers; ++i) {
      const std::string h = "h." + std::to_string(i) + ".";
      for (const char* ln : {"ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"}) add(h + ln, {c});
      add(h + "attn.c_attn.weight", {c, 3 * c}), add(h + "attn.c_attn.bias", {3 * c});
      add(h + "attn.c_proj.weight", {c, c}), add(h + "attn.c_proj.bias", {c});
      add(h + "mlp.c_fc.weight", {c, config.inner}), add(h + "mlp.c_fc.bias", {config.inner});
      add(h + "mlp.c_proj.weight", {config.inner, c}), add(h + "mlp.c_proj.bias", {c});
    }
  }

  // Logits of `ids`, fed in chunks of so many tokens.
  std::vector<float> logits(const Kernels& kernels, const std::vector<std::int32_t>& ids, std::size_t chunk) {
    model::Model m(config, tensors, kernels, 2);
    std::vector<AlignedBytes> memory;
    std::vector<std::byte*> blocks;
    for (std::size_t p = 0; p < ids.size(); p += kBlock) memory.emplace_back(m.cache_shape().block_bytes());
    for (AlignedBytes& b : memory) blocks.push_back(b.data());
    std::vector<float> out(ids.size() * config.vocab);
    for (std::size_t p = 0; p < ids.size(); p += chunk) {
      const std::size_t count = std::min(chunk, ids.size() - p);
      m.forward({{blocks.data(), p, ids.data() + p, count}}, nullptr, nullptr);
      std::vector<std::size_t> rows(count);
      for (std::size_t i = 0; i < count; ++i) rows[i] = i;
      m.logits(rows, out.data() + p * config.vocab);
    }
    return out;
  }
};

TEST_CASE("a bfloat16 model on tiles: the same bits in any chunks, and near the bits of AVX-512") {
  if (!has_avx512_vnni()) return;
  SmallModel small;
  Kernels kernels = kernels_for(Isa::kAvx512);
  std::vector<std::int32_t> ids(75);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i % 51);
  const std::vector<float> plain = small.logits(kernels, ids, 75);
  kernels.matmul = amx::kSoftwareMatmul;
  kernels.narrow = amx::kSoftwareNarrow;
  const std::vector<float> whole = small.logits(kernels, ids, 75);
  for (const std::size_t chunk : {1, 7, 16, 33}) REQUIRE(small.logits(kernels, ids, chunk) == whole);
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    difference += std::pow(double{plain[i]} - whole[i], 2), size += std::pow(double{plain[i]}, 2);
  }
  CHECK(difference > 0);                            // activations were rounded
  CHECK(std::sqrt(difference / size) < 4.0 / 256);  // a few roundings of one part in 256, in quadrature
}

TEST_CASE("the hardware gives the bits of the unit in plain C++") {
  if (!here()) {
    MESSAGE("no AMX on this machine: the hardware was not run");
    return;
  }
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  for (const std::size_t m : {1, 2, 15, 16, 17, 31, 32, 33, 70}) {
    for (const auto& [k, n] : {std::pair<std::size_t, std::size_t>{1, 1}, {33, 17}, {64, 64}, {100, 130}, {768, 50}}) {
      const std::size_t narrow_ldx = round_up(k, kNarrowK);
      std::vector<std::uint16_t> x(m * narrow_ldx, 0);
      AlignedBytes w(packed_bytes(DType::kBF16, k, n));
      auto* weights = reinterpret_cast<std::uint16_t*>(w.data());
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t t = 0; t < k; ++t) x[i * narrow_ldx + t] = narrow_bf16(normal(bits));
      }
      for (std::size_t i = 0; i < w.size() / 2; ++i) weights[i] = narrow_bf16(normal(bits));
      std::vector<float> y(m * n), want(m * n);
      Matmul a = {};
      a.w = w.data(), a.dtype = DType::kBF16, a.ldy = n, a.m = m, a.k = k, a.last = n;
      a.narrow_x = x.data(), a.narrow_ldx = narrow_ldx;
      a.y = want.data();
      amx::kSoftwareMatmul(a);
      a.y = y.data();
      amx::kMatmul(a);
      REQUIRE(std::memcmp(y.data(), want.data(), y.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace
