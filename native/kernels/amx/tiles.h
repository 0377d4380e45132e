// Products of whole panels on a unit that multiplies tiles of 16 rows x 64 bytes: the blocking, over any such unit.
//
// Why: a tile of A [16 rows, 64 bytes of k] times a tile of B [16 lines, 64 bytes] is one instruction. A line of packed
// weights (types.h) is a row of B as it lies, 16 lines are a tile, and the rows of x are those of A: nothing is copied.
// A block is 2 x 2 tiles of C, so that four loads feed four products. Rows pass outside and pairs of tiles inside: the
// 32 rows stay in the first-level cache while the panel of weights comes from the second.
//
// `U` is the unit: hardware.h, or software.h where there is none. This file knows no instruction.
#pragma once
#include "kernels/matmul.h"

namespace gpt2::kernels::amx {
namespace {

constexpr std::size_t kRows = 16, kBytes = 64, kTileSize = kRows * kBytes;
constexpr std::size_t kBlockRows = 2 * kRows;

// The 64 bytes that LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles 0 to 3 are C, 4 and 5 are A, 6 and 7 are B. With two tiles of rows C is 2 x 2; with one it is 1 x 4.
inline TileConfig config_for(std::size_t rows) {
  TileConfig c;
  const std::size_t low = rows < kRows ? rows : kRows, high = rows - low;
  const std::size_t counts[8] = {low, low, high > 0 ? high : low, high > 0 ? high : low, low, high, kRows, kRows};
  for (std::size_t t = 0; t < 8; ++t) {
    if (counts[t] == 0) continue;
    c.rows[t] = static_cast<std::uint8_t>(counts[t]);
    c.bytes[t] = kBytes;
  }
  return c;
}

// The unit for one call: configured when the number of rows changes, released at the end, so that a thread between two
// calls has no tiles that a context switch would have to save.
template <class U>
class Session {
 public:
  Session() = default;
  ~Session() { unit_.release(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  U& with_rows(std::size_t rows) {
    if (rows != rows_) unit_.configure(config_for(rows));
    rows_ = rows;
    return unit_;
  }

 private:
  U unit_;
  std::size_t rows_ = 0;
};

// A and B of a panel. `tail`, where k ends within a tile of B: the last lines of each tile, filled up with zeros.
struct Operands {
  const std::byte* a;
  std::size_t lda;
  const std::byte* b;
  std::size_t ldb;  // from one tile of outputs to the next
  std::size_t steps;
  const std::byte* tail;
};

// C(r, n) += A(r) . B(n) for n from kN up, with one tile of k.
template <class Op, int R, int N, int kN, class U>
inline void multiply_tiles(U& u, const std::byte* b, std::size_t ldb) {
  constexpr int kB = 6 + kN % 2;
  u.template load<kB>(b + kN * ldb, kBytes);
  Op::template multiply<kN, 4, kB>(u);
  if constexpr (R == 2) Op::template multiply<2 + kN, 5, kB>(u);
  if constexpr (kN + 1 < N) multiply_tiles<Op, R, N, kN + 1>(u, b, ldb);
}

template <class Op, int R, int N, class U>
inline void step(U& u, const std::byte* a, std::size_t lda, const std::byte* b, std::size_t ldb) {
  u.template load<4>(a, lda);
  if constexpr (R == 2) u.template load<5>(a + kRows * lda, lda);
  multiply_tiles<Op, R, N, 0>(u, b, ldb);
}

template <int R, int N, int kN, class U>
inline void store_tiles(U& u, std::byte* c) {
  constexpr std::size_t kStride = kPanel * 4;
  u.template store<kN>(c + kN * kBytes, kStride);
  if constexpr (R == 2) u.template store<2 + kN>(c + kRows * kStride + kN * kBytes, kStride);
  if constexpr (kN + 1 < N) store_tiles<R, N, kN + 1>(u, c);
}

// R x N tiles of C, from tile `first` of the panel, into c [rows, kPanel].
template <class Op, int R, int N, class U>
inline void block(U& u, const Operands& o, std::size_t first, std::byte* c) {
  u.template zero<0>();
  if constexpr (N > 1) u.template zero<1>();
  if constexpr (N > 2 || R == 2) u.template zero<2>();
  if constexpr (N > 3 || (R == 2 && N == 2)) u.template zero<3>();
  const std::byte* b = o.b + first * o.ldb;
  for (std::size_t s = 0; s < o.steps; ++s) step<Op, R, N>(u, o.a + s * kBytes, o.lda, b + s * kTileSize, o.ldb);
  if (o.tail != nullptr) step<Op, R, N>(u, o.a + o.steps * kBytes, o.lda, o.tail + first * kTileSize, kTileSize);
  store_tiles<R, N, 0>(u, c + first * kBytes);
}

// A panel of `tiles` (1 to 4) tiles of outputs for m rows; finish(i, rows, sums) gets the sums [rows, kPanel] of rows
// i, i + 1 ... while they are in the first-level cache.
template <class Op, class U, class Finish>
inline void multiply_panel(Session<U>& session, Operands o, std::size_t m, std::size_t tiles, const Finish& finish) {
  alignas(64) std::byte sums[kBlockRows * kPanel * 4];
  const std::byte* a = o.a;
  for (std::size_t i = 0; i < m; i += kBlockRows) {
    const std::size_t rows = m - i < kBlockRows ? m - i : kBlockRows;
    U& u = session.with_rows(rows);
    o.a = a + i * o.lda;
    if (rows > kRows) {
      for (std::size_t t = 0; t + 2 <= tiles; t += 2) block<Op, 2, 2>(u, o, t, sums);
      if (tiles % 2 != 0) block<Op, 2, 1>(u, o, tiles - 1, sums);
    } else if (tiles == 4) {
      block<Op, 1, 4>(u, o, 0, sums);
    } else {
      for (std::size_t t = 0; t < tiles; ++t) block<Op, 1, 1>(u, o, t, sums);
    }
    finish(i, rows, sums);
  }
}

struct Bytes {
  template <int C, int A, int B, class U>
  static void multiply(U& u) {
    u.template dot_bytes<C, A, B>();
  }
};

struct Pairs {
  template <int C, int A, int B, class U>
  static void multiply(U& u) {
    u.template dot_pairs<C, A, B>();
  }
};

}  // namespace
}  // namespace gpt2::kernels::amx
