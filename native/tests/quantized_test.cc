// Integer matmul and the quantisation of activations: exact against plain sums, the same bits on every instruction set.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "base/aligned.h"
#include "tests/random.h"
#include "tests/tables.h"

namespace {

using namespace gpt2;
using namespace gpt2::kernels;

// The integer tables that this CPU has beside the one of its set: without VNNI, too.
std::vector<MatmulQFn> integer_kernels() {
  std::vector<MatmulQFn> out = {kernels_for(Isa::kGeneric).matmul_q};
#if defined(__x86_64__)
  for (const Isa isa : available_isas()) {
    if (isa == Isa::kAvx2) out.push_back(avx2::kTable.matmul_q);
    if (isa == Isa::kAvx512) out.push_back(avx512::kTable.matmul_q);
  }
  if (has_avx_vnni()) out.push_back(avxvnni::kMatmulQ);
  if (has_avx512_vnni()) out.push_back(avx512vnni::kMatmulQ);
  if (has_avx512_vnni()) out.push_back(amx::kSoftwareMatmulQ);
  if (has_avx512_vnni()) out.push_back(avxvnni::kTwinMatmulQ);
#elif defined(__aarch64__)
  out.push_back(neon::kTable.matmul_q);
  if (has_neon_dot()) out.push_back(neondot::kMatmulQ);
  if (has_neon_i8mm()) out.push_back(neoni8mm::kMatmulQ);
#endif
  out.push_back(table().matmul_q);
  return out;
}

// How a weight is coded.
struct Scheme {
  DType dtype;
  bool shifted;  // with zero points (int8) or offsets (int4)
  std::size_t group;
};
const Scheme kSchemes[] = {{DType::kI8, false, 0},  {DType::kI8, true, 0},  {DType::kI4, false, 32},
                           {DType::kI4, false, 64}, {DType::kI4, true, 32}, {DType::kI4, true, 128}};

// A problem with extreme codes everywhere: the largest sums that can be.
struct Problem {
  std::size_t m, k, n, kp, padded;
  Scheme scheme;
  std::vector<float> x, bias, scale, y0, xscale;
  std::vector<std::uint8_t> xq, mult;
  std::vector<std::int32_t> xzero, xsums, wsum, w8;
  std::vector<std::int8_t> zero, offset;
  AlignedBytes tiles, scratch;

  Problem(std::size_t m_, std::size_t k_, std::size_t n_, Scheme s, bool extreme)
      : m(m_), k(k_), n(n_), kp(padded_k(s.dtype, k_)), padded(round_up(n_, kTile)), scheme(s) {
    std::mt19937 bits(static_cast<unsigned>(m * 1000003 + k * 1009 + n));
    const auto pick = [&](int low, int high) {
      if (extreme) return bits() % 2 ? low : high;
      return std::uniform_int_distribution<int>(low, high)(bits);
    };
    bias = random(n, 2);
    y0 = random(m * n, 3);
    scale = random(padded, 4, 0.01f);
    wsum.assign(padded, 0);
    zero.assign(padded, 0);
    w8.assign(k * n, 0);
    tiles = AlignedBytes(packed_bytes(s.dtype, k, n));
    scratch = AlignedBytes(matmul_q_scratch(kp));
    if (s.dtype == DType::kI8) {
      fill_int8(pick);
    } else {
      fill_int4(pick);
    }
    for (std::size_t t = 0; t < k; ++t) {
      for (std::size_t j = 0; j < n; ++j) wsum[j] += w8[t * n + j];
    }
    quantize_rows(extreme);
  }

  template <class Pick>
  void fill_int8(const Pick& pick) {
    std::memset(tiles.data(), 0, tiles.size());
    for (std::size_t j = 0; j < n; ++j) {
      if (scheme.shifted) zero[j] = static_cast<std::int8_t>(pick(-128, 127));
      for (std::size_t t = 0; t < k; ++t) {
        const int q = pick(scheme.shifted ? -128 : -127, 127);
        w8[t * n + j] = q;
        tiles.data()[j / kTile * tile_bytes(DType::kI8, k) + t / 4 * kLine + j % kTile * 4 + t % 4] =
            static_cast<std::byte>(q);
      }
    }
  }

  template <class Pick>
  void fill_int4(const Pick& pick) {
    const std::size_t groups = kp / scheme.group;
    std::memset(tiles.data(), 0x88, tiles.size());
    mult.assign(padded / kTile * groups * kTile, 1);
    offset.assign(mult.size(), -8);
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t at = (j / kTile * groups + g) * kTile + j % kTile;
        mult[at] = static_cast<std::uint8_t>(pick(1, 15));
        offset[at] = static_cast<std::int8_t>(scheme.shifted ? pick(-128, 127 - 15 * mult[at]) : -8 * mult[at]);
        for (std::size_t t = g * scheme.group; t < (g + 1) * scheme.group; ++t) {
          const int code = t < k ? pick(0, 15) : 8;
          if (t < k) w8[t * n + j] = mult[at] * code + offset[at];
          auto& byte = tiles.data()[j / kTile * tile_bytes(DType::kI4, k) + t / 8 * kLine + j % kTile * 4 + t % 4];
          const int old = static_cast<int>(byte);
          byte = static_cast<std::byte>(t % 8 < 4 ? (old & 0xf0) | code : (old & 0x0f) | code << 4);
        }
      }
    }
  }

  void quantize_rows(bool extreme) {
    xq.assign(m * kp, 0);
    xscale.assign(m, 0);
    xzero.assign(m, 0);
    xsums.assign(m * (kp / kSumRun), 0);
    for (std::size_t i = 0; i < m; ++i) {
      std::vector<float> row = random(k, static_cast<unsigned>(100 + i), 3.0f);
      if (extreme) {
        for (float& v : row) v = v > 0 ? 1.0f : i % 2 ? -1.0f : 0.0f;
      }
      const Quantized q = table().quantize(row.data(), k, kp, &xq[i * kp], &xsums[i * (kp / kSumRun)]);
      xscale[i] = q.scale;
      xzero[i] = q.zero;
    }
  }

  std::vector<float> run(MatmulQFn matmul_q, std::size_t row, std::size_t rows, std::size_t first, std::size_t last,
                         bool accumulate, Activation activation) {
    std::vector<float> y(y0.begin() + static_cast<std::ptrdiff_t>(row * n),
                         y0.begin() + static_cast<std::ptrdiff_t>((row + rows) * n));
    MatmulQ a = {};
    a.x = xq.data() + row * kp;
    a.ldx = kp;
    a.xscale = xscale.data() + row;
    a.xzero = xzero.data() + row;
    a.ldsums = kp / kSumRun;
    a.xsums = xsums.data() + row * a.ldsums;
    a.w = tiles.data();
    a.dtype = scheme.dtype;
    a.mult = mult.data();
    a.offset = scheme.shifted ? offset.data() : nullptr;
    a.group = scheme.group;
    a.scale = scale.data();
    a.wsum = wsum.data();
    a.zero = scheme.dtype == DType::kI8 && scheme.shifted ? zero.data() : nullptr;
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
    matmul_q(a);
    return y;
  }
};

TEST_CASE("sums of integers are exact, on every instruction set and for the largest codes") {
  for (const Scheme& scheme : kSchemes) {
    for (const bool extreme : {false, true}) {
      for (const std::size_t m : {1, 2, 3, 4, 5, 6, 7, 13, 33}) {
        for (const auto& shape :
             {std::pair<std::size_t, std::size_t>{1, 1}, {5, 3}, {64, 16}, {67, 65}, {130, 130}, {256, 64}}) {
          const std::size_t k = shape.first, n = shape.second;
          Problem p(m, k, n, scheme, extreme);
          for (const MatmulQFn matmul_q : integer_kernels()) {
            const std::vector<float> y = p.run(matmul_q, 0, m, 0, n, false, Activation::kNone);
            for (std::size_t i = 0; i < m; ++i) {
              for (std::size_t j = 0; j < n; ++j) {
                std::int64_t sum = 0;
                for (std::size_t t = 0; t < k; ++t) {
                  const int zero = scheme.dtype == DType::kI8 ? p.zero[j] : 0;
                  sum += std::int64_t{p.xq[i * p.kp + t] - p.xzero[i]} * (p.w8[t * n + j] - zero);
                }
                INFO("m ", m, " k ", k, " n ", n, " int", scheme.dtype == DType::kI8 ? 8 : 4, " group ", scheme.group,
                     " at ", i, ", ", j);
                REQUIRE(y[i * n + j] == static_cast<float>(sum) * (p.xscale[i] * p.scale[j]) + p.bias[j]);
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("rows and columns of integer sums do not know each other; activation and accumulation are those of floats") {
  for (const Scheme& scheme : kSchemes) {
    Problem p(17, 200, 203, scheme, false);
    for (const bool accumulate : {false, true}) {
      const Activation act = accumulate ? Activation::kNone : Activation::kGeluTanh;
      const std::vector<float> all = p.run(kernels_for(Isa::kGeneric).matmul_q, 0, p.m, 0, p.n, accumulate, act);
      for (const MatmulQFn matmul_q : integer_kernels()) {
        for (const std::size_t rows : {1, 2, 3, 6, 7, 17}) {
          for (std::size_t row = 0; row + rows <= p.m; row += rows) {
            const std::vector<float> some = p.run(matmul_q, row, rows, 0, p.n, accumulate, act);
            for (std::size_t i = 0; i < rows * p.n; ++i) REQUIRE(some[i] == all[row * p.n + i]);
          }
        }
        for (std::size_t first = 0; first < p.n; first += 80) {
          const std::size_t last = std::min(p.n, first + 80);
          const std::vector<float> part = p.run(matmul_q, 0, p.m, first, last, accumulate, act);
          for (std::size_t i = 0; i < p.m; ++i) {
            for (std::size_t j = first; j < last; ++j) REQUIRE(part[i * p.n + j] == all[i * p.n + j]);
          }
        }
      }
    }
  }
}

TEST_CASE("activations are quantised to the nearest of 255 steps, equally on every instruction set") {
  const Kernels plain = kernels_for(Isa::kGeneric);
  for (std::size_t n = 1; n < 200; n += n < 70 ? 1 : 13) {
    for (const float spread : {1.0f, 1e-30f, 1e30f, 0.0f}) {
      for (const float shift : {0.0f, 3.0f, -3.0f}) {
        std::vector<float> x = random(n, static_cast<unsigned>(n), spread);
        for (float& v : x) v += shift * spread;
        const std::size_t padded = round_up(n, 128);
        std::vector<std::uint8_t> q(padded, 7), want(padded, 9);
        std::vector<std::int32_t> sums(padded / kSumRun), want_sums(padded / kSumRun);
        const Quantized a = table().quantize(x.data(), n, padded, q.data(), sums.data());
        const Quantized b = plain.quantize(x.data(), n, padded, want.data(), want_sums.data());
        REQUIRE(a.scale == b.scale);
        REQUIRE(a.zero == b.zero);
        REQUIRE(q == want);
        REQUIRE(sums == want_sums);
        std::int64_t total = 0, summed = 0;
        for (std::size_t j = 0; j < n; ++j) {
          const double back = double{a.scale} * (q[j] - a.zero);
          REQUIRE(std::fabs(back - x[j]) <= 0.5 * a.scale * (1 + 1.0 / 16384));
        }
        for (const std::uint8_t v : q) total += v;
        for (const std::int32_t s : sums) summed += s;
        REQUIRE(total == summed);
      }
    }
  }
}

TEST_CASE("a row with something that is not finite has the scale NaN, and says so in what is computed from it") {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const std::size_t at : {0, 5, 40, 69}) {
      std::vector<float> x = random(70, 1);
      x[at] = bad;
      std::vector<std::uint8_t> q(128);
      std::vector<std::int32_t> sums(4);
      REQUIRE(std::isnan(table().quantize(x.data(), x.size(), 128, q.data(), sums.data()).scale));
      REQUIRE(std::isnan(kernels_for(Isa::kGeneric).quantize(x.data(), x.size(), 128, q.data(), sums.data()).scale));
    }
  }
}

}  // namespace
