// matmul.h for bfloat16 weights, and matmul_q.h, on a tile unit; the vectors of AVX-512 do what is around the products.
#pragma once
#include "kernels/amx/tiles.h"
#include "kernels/avx512/ints.h"
#include "kernels/avx512/narrow.h"
#include "kernels/avx512/vec.h"
#include "kernels/simd/matmul.h"
#include "kernels/simd/matmul_q.h"
#include "kernels/table.h"

namespace gpt2::kernels::amx {
namespace {

using avx512::Vec;

struct Scaling : avx512::Ints {
  using Unpack = avx512::Unpack;
};

// From so many rows on, integers go by tiles: the vector kernel passes over a panel once for each six rows, and one
// product of tiles serves sixteen.
constexpr std::size_t kTilesFrom = 7;

template <class U>
void matmul_q(const MatmulQ& a) {
  if (a.m < kTilesFrom) return avx512vnni::kMatmulQ(a);
  Session<U> session;
  const std::size_t stride = tile_bytes(a.dtype, a.k);
  auto* unpacked = static_cast<std::byte*>(a.scratch);
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    const std::size_t tiles = (n + kTile - 1) / kTile;
    const std::byte* w = static_cast<const std::byte*>(a.w) + first / kTile * stride;
    Operands o = {reinterpret_cast<const std::byte*>(a.x), a.ldx, w, stride, stride / kTileSize, nullptr};
    if (a.dtype == DType::kI4) {
      for (std::size_t t = 0; t < tiles; ++t) {
        simd::unpack_tile<Scaling>(a, first / kTile + t, w + t * stride, unpacked + 2 * t * stride);
      }
      o.b = unpacked, o.ldb = 2 * stride, o.steps *= 2;
    }
    multiply_panel<Bytes>(session, o, a.m, tiles, [&](std::size_t i, std::size_t rows, const std::byte* sums) {
      alignas(64) float scaled[kPanel];
      for (std::size_t r = 0; r < rows; ++r) {
        const auto* row = reinterpret_cast<const std::int32_t*>(sums) + r * kPanel;
        for (std::size_t j = 0; j < tiles * kTile; j += kTile) {
          simd::scale_sums<Vec, Scaling>(a, i + r, first + j, Scaling::load(row + j), scaled + j);
        }
        simd::finish_row<Vec>(a, i + r, first, scaled, n);
      }
    });
  }
}

template <class U>
void matmul(const Matmul& a) {
  if (a.dtype != DType::kBF16) return avx512::kTable.matmul(a);
  Session<U> session;
  const std::size_t stride = tile_bytes(a.dtype, a.k), steps = stride / kTileSize, tail = stride % kTileSize;
  alignas(64) std::byte last[4 * kTileSize] = {};
  for (std::size_t first = a.first; first < a.last; first += kPanel) {
    const std::size_t n = a.last - first < kPanel ? a.last - first : kPanel;
    const std::size_t tiles = (n + kTile - 1) / kTile;
    const std::byte* w = static_cast<const std::byte*>(a.w) + first / kTile * stride;
    for (std::size_t t = 0; tail != 0 && t < tiles; ++t) {
      std::memcpy(last + t * kTileSize, w + t * stride + steps * kTileSize, tail);
    }
    const auto* x = reinterpret_cast<const std::byte*>(a.narrow_x);
    const Operands o = {x, a.narrow_ldx * 2, w, stride, steps, tail == 0 ? nullptr : last};
    multiply_panel<Pairs>(session, o, a.m, tiles, [&](std::size_t i, std::size_t rows, const std::byte* sums) {
      for (std::size_t r = 0; r < rows; ++r) {
        simd::finish_row<Vec>(a, i + r, first, reinterpret_cast<const float*>(sums) + r * kPanel, n);
      }
    });
  }
}

}  // namespace
}  // namespace gpt2::kernels::amx
