#include "model/pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/pages.h"

namespace gpt2::model {
namespace {

using kernels::kLine;
using kernels::kTile;

// Tiles of one task: half a kilobyte or more of each row of a [k, n] source, so that whole cache lines are used.
constexpr std::size_t kTaskTiles = 8;

// A source, E being the bits of an element.
template <class E>
struct Reader {
  const std::byte* data;
  std::size_t n, k;

  // Up to kTile elements from (row, column) of a matrix with `width` columns; zeros beyond `count`.
  void read(std::size_t row, std::size_t column, std::size_t width, std::size_t count, E* out) const {
    const std::byte* at = data + (row * width + column) * sizeof(E);
    if (count == kTile) {
      std::memcpy(out, at, kTile * sizeof(E));
    } else {
      std::memset(out, 0, kTile * sizeof(E));
      std::memcpy(out, at, count * sizeof(E));
    }
  }
};

// [k, n] float32: a line is a run of 16 of the source.
void pack_rows(const Reader<std::uint32_t>& from, std::size_t first, std::size_t tiles, std::byte* out) {
  const std::size_t size = from.k * kLine;
  for (std::size_t t = 0; t < from.k; ++t) {
    for (std::size_t i = 0; i < tiles; ++i) {
      const std::size_t column = (first + i) * kTile;
      alignas(kLine) std::uint32_t line[kTile];
      from.read(t, column, from.n, std::min(kTile, from.n - column), line);
      std::memcpy(out + i * size + t * kLine, line, kLine);
    }
  }
}

// [k, n] bfloat16: a line is two runs of 16, element by element.
void pack_rows(const Reader<std::uint16_t>& from, std::size_t first, std::size_t tiles, std::byte* out) {
  const std::size_t size = kernels::tile_bytes(kernels::DType::kBF16, from.k);
  for (std::size_t t = 0; t < from.k; t += 2) {
    for (std::size_t i = 0; i < tiles; ++i) {
      const std::size_t column = (first + i) * kTile, count = std::min(kTile, from.n - column);
      std::uint16_t even[kTile], odd[kTile] = {};
      from.read(t, column, from.n, count, even);
      if (t + 1 < from.k) from.read(t + 1, column, from.n, count, odd);
      alignas(kLine) std::uint32_t line[kTile];
      for (std::size_t j = 0; j < kTile; ++j) line[j] = even[j] | static_cast<std::uint32_t>(odd[j]) << 16;
      std::memcpy(out + i * size + t / 2 * kLine, line, kLine);
    }
  }
}

// [n, k]: the rows run along k; 16 x 16 elements are turned at a time. In a line of bfloat16 an output's two elements
// lie side by side as they do in the source.
template <class E>
void pack_turned(const Reader<E>& from, std::size_t first, std::size_t tiles, std::byte* out) {
  constexpr std::size_t kDepth = 4 / sizeof(E);
  const std::size_t size = kernels::round_up(from.k, kDepth) / kDepth * kLine;
  for (std::size_t i = 0; i < tiles; ++i) {
    const std::size_t row = (first + i) * kTile, outputs = std::min(kTile, from.n - row);
    for (std::size_t t = 0; t < from.k; t += kTile) {
      const std::size_t count = std::min(kTile, from.k - t);
      alignas(kLine) std::uint32_t source[kTile][kTile / kDepth] = {}, turned[kTile / kDepth][kTile];
      for (std::size_t j = 0; j < outputs; ++j) from.read(row + j, t, from.k, count, reinterpret_cast<E*>(source[j]));
      for (std::size_t l = 0; l < kTile / kDepth; ++l) {
        for (std::size_t j = 0; j < kTile; ++j) turned[l][j] = source[j][l];
      }
      std::memcpy(out + i * size + t / kDepth * kLine, turned, kernels::round_up(count, kDepth) / kDepth * kLine);
    }
  }
}

template <class E>
void pack_tiles(const Source& s, std::size_t first, std::size_t tiles, std::byte* out) {
  const Reader<E> from = {static_cast<const std::byte*>(s.data), s.n, s.k};
  if (s.turned) return pack_turned(from, first, tiles, out);
  pack_rows(from, first, tiles, out);
}

std::size_t bytes(const Source& s) { return s.k * s.n * (s.dtype == kernels::DType::kF32 ? 4 : 2); }

// A task of a turned source has read whole rows; of others every task reads a part of every row.
void release_rows(const Source& s, std::size_t first, std::size_t tiles) {
  if (!s.turned) return;
  const std::size_t row = bytes(s) / s.n, from = first * kTile, to = std::min(s.n, (first + tiles) * kTile);
  release_pages(static_cast<const std::byte*>(s.data) + from * row, (to - from) * row);
}

}  // namespace

AlignedBytes pack(const std::vector<Source>& sources, ThreadPool& pool) {
  struct Task {
    const Source* source;
    std::size_t first, tiles, at;
    std::atomic<std::size_t>* left;  // tasks of the source
  };
  std::vector<Task> tasks;
  std::vector<std::atomic<std::size_t>> left(sources.size());
  std::size_t total = 0;
  for (const Source& s : sources) {
    const std::size_t tiles = (s.n + kTile - 1) / kTile, size = kernels::tile_bytes(s.dtype, s.k);
    std::atomic<std::size_t>& tasks_left = left[static_cast<std::size_t>(&s - sources.data())];
    tasks_left = (tiles + kTaskTiles - 1) / kTaskTiles;
    for (std::size_t first = 0; first < tiles; first += kTaskTiles) {
      tasks.push_back({&s, first, std::min(kTaskTiles, tiles - first), total + first * size, &tasks_left});
    }
    total += tiles * size;
  }
  AlignedBytes out(total);
  pool.run(tasks.size(), [&](std::size_t index, int) {
    const Task& task = tasks[index];
    if (task.source->dtype == kernels::DType::kF32) {
      pack_tiles<std::uint32_t>(*task.source, task.first, task.tiles, out.data() + task.at);
    } else {
      pack_tiles<std::uint16_t>(*task.source, task.first, task.tiles, out.data() + task.at);
    }
    if (!task.source->mapped) return;
    release_rows(*task.source, task.first, task.tiles);
    if (--*task.left == 0) release_pages(task.source->data, bytes(*task.source));
  });
  return out;
}

}  // namespace gpt2::model
