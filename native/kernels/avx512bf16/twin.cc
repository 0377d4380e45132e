// For tests, on machines without AVX-512 BF16: the blocking of simd/matmul_pairs.h over products in plain C++, and
// plain loops that know no blocking, the truth for both.
#include "kernels/avx2/vec.h"
#include "kernels/avx512bf16/plain.h"
#include "kernels/generic/kernels.h"
#include "kernels/simd/matmul_pairs.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx512bf16 {
namespace {

struct PlainPairs {
  struct Acc {
    float lane[kTile];
  };
  struct W {
    std::uint16_t two[kTile][2];
  };
  struct X {
    std::uint16_t two[2];
  };

  static Acc zero() { return {}; }
  static W weights(const std::byte* line) {
    W out;
    std::memcpy(&out, line, sizeof out);
    return out;
  }
  static X spread(const std::uint16_t* x) { return {{x[0], x[1]}}; }
  static Acc dot(Acc a, const X& x, const W& w) {
    for (std::size_t j = 0; j < kTile; ++j) a.lane[j] = plain_dot(a.lane[j], x.two, w.two[j]);
    return a;
  }
  static void store(float* p, const Acc& a) { std::memcpy(p, a.lane, sizeof a.lane); }
};

void matmul(const Matmul& a) {
  if (a.dtype != DType::kBF16) return avx2::kTable.matmul(a);
  simd::matmul_pairs<avx2::Vec, PlainPairs>(a);
}

void plain_matmul(const Matmul& a) {
  for (std::size_t i = 0; i < a.m; ++i) {
    for (std::size_t j = a.first; j < a.last; ++j) {
      const auto* tile = static_cast<const std::byte*>(a.w) + j / kTile * tile_bytes(a.dtype, a.k);
      float sum = 0.0f;
      for (std::size_t t = 0; t < a.k; t += 2) {
        std::uint16_t w[2];
        std::memcpy(w, tile + t / 2 * kLine + j % kTile * sizeof w, sizeof w);
        sum = plain_dot(sum, a.narrow_x + i * a.narrow_ldx + t, w);
      }
      generic::finish(a, i, j, sum);
    }
  }
}

void narrow(const float* x, std::size_t n, std::size_t padded, std::uint16_t* out) {
  for (std::size_t j = 0; j < padded; ++j) out[j] = j < n ? narrow_bf16(x[j]) : std::uint16_t{0};
}

}  // namespace

const MatmulFn kTwinMatmul = matmul;
const MatmulFn kPlainMatmul = plain_matmul;
const NarrowFn kPlainNarrow = narrow;

}  // namespace gpt2::kernels::avx512bf16
