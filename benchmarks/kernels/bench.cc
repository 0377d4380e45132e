// What the machine gives and what the kernels take of it: bytes read per second at several sizes of the working set,
// multiply-adds per second of the widest registers, and every kind of weight through the matmul of one row (decoding)
// and of 256 rows (prefill) in the shapes of the 124M model. One JSON object on stdout; run.py draws the table.
//
//   gpt2_bench_kernels [threads] [isa]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/table.h"

namespace {

using namespace gpt2;
using namespace gpt2::kernels;
using Clock = std::chrono::steady_clock;

constexpr int kRounds = 9;

template <class Body>
double median_seconds(const Body& body) {
  std::vector<double> times;
  for (int i = 0; i < kRounds; ++i) {
    const auto began = Clock::now();
    body();
    times.push_back(std::chrono::duration<double>(Clock::now() - began).count());
  }
  std::sort(times.begin(), times.end());
  return times[kRounds / 2];
}

struct Shape {
  std::size_t k, n;
};

// The matrices of a 124M model, 12 times the four of a block and the head.
std::vector<Shape> shapes_124m() {
  std::vector<Shape> out;
  for (int i = 0; i < 12; ++i) {
    for (const Shape s : {Shape{768, 2304}, Shape{768, 768}, Shape{768, 3072}, Shape{3072, 768}}) out.push_back(s);
  }
  out.push_back({768, 50257});
  return out;
}

// GB/s of adding up `bytes` of memory with all threads, by 64-bit lanes: what no decoding can beat at that size.
double read_gb_s(ThreadPool& pool, std::size_t bytes) {
  const AlignedBytes memory(bytes);
  std::memset(const_cast<std::byte*>(memory.data()), 1, bytes);
  constexpr std::size_t kPiece = 1 << 18;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(pool.threads()) * 8);
  const double seconds = median_seconds([&] {
    pool.run(bytes / kPiece, [&](std::size_t task, int thread) {
      const auto* at = reinterpret_cast<const std::uint64_t*>(memory.data() + task * kPiece);
      std::uint64_t a[8] = {};
      for (std::size_t i = 0; i < kPiece / 8; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) a[j] += at[i + j];
      }
      for (const std::uint64_t x : a) sums[static_cast<std::size_t>(thread) * 8] += x;
    });
  });
  return static_cast<double>(bytes / kPiece * kPiece) / seconds / 1e9;
}

// All matrices of the model in one kind of storage.
struct Weights {
  DType dtype;
  std::vector<Shape> shapes = shapes_124m();
  AlignedBytes data;
  std::vector<std::size_t> at;
  std::vector<float> scale = std::vector<float>(50272, 0.01f);
  std::vector<std::int32_t> sums = std::vector<std::int32_t>(50272, 0);
  std::vector<std::uint8_t> mult = std::vector<std::uint8_t>(50272 * 3072 / 32 / 4 + 50272 * 24, 3);

  explicit Weights(DType d) : dtype(d) {
    std::size_t total = 0;
    for (const Shape& s : shapes) {
      at.push_back(total);
      total += packed_bytes(d, s.k, s.n);
    }
    data = AlignedBytes(total);
    std::memset(data.data(), 0, total);
  }
};

struct Rows {
  std::size_t m;
  AlignedFloats x, y;
  AlignedBytes codes;
  std::vector<float> scale;
  std::vector<std::int32_t> zero, sums;
  std::vector<AlignedBytes> scratch;

  Rows(std::size_t rows, int threads)
      : m(rows),
        x(rows * 3072),
        y(rows * 50272),
        codes(rows * 3072 * 2),  // as bytes, or as bfloat16
        scale(rows, 0.1f),
        zero(rows, 128),
        sums(rows * 96, 0) {
    std::memset(codes.data(), 3, codes.size());
    for (int t = 0; t < threads; ++t) scratch.emplace_back(matmul_q_scratch(3072));
  }
};

void matmul_all(const Kernels& kernels, ThreadPool& pool, const Weights& w, Rows& r) {
  for (std::size_t i = 0; i < w.shapes.size(); ++i) {
    const Shape s = w.shapes[i];
    pool.run((s.n + kPanel - 1) / kPanel, [&](std::size_t task, int thread) {
      const auto fill = [&](auto& a) {
        a.w = w.data.data() + w.at[i];
        a.dtype = w.dtype;
        a.y = r.y.data();
        a.ldy = s.n;
        a.m = r.m;
        a.k = s.k;
        a.first = task * kPanel;
        a.last = std::min(s.n, a.first + kPanel);
      };
      if (w.dtype == DType::kF32 || w.dtype == DType::kBF16) {
        Matmul a = {};
        fill(a);
        a.x = r.x.data();
        a.ldx = s.k;
        a.narrow_x = reinterpret_cast<const std::uint16_t*>(r.codes.data());
        a.narrow_ldx = 3072;
        a.scratch = reinterpret_cast<float*>(r.scratch[static_cast<std::size_t>(thread)].data());
        return kernels.matmul(a);
      }
      MatmulQ a = {};
      fill(a);
      a.x = reinterpret_cast<const std::uint8_t*>(r.codes.data());
      a.ldx = 3072;
      a.xscale = r.scale.data();
      a.xzero = r.zero.data();
      a.xsums = r.sums.data();
      a.ldsums = 96;
      a.mult = w.mult.data();
      a.group = 32;
      a.scale = w.scale.data();
      a.wsum = w.sums.data();
      a.scratch = r.scratch[static_cast<std::size_t>(thread)].data();
      kernels.matmul_q(a);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const Isa isa = choose_isa(argc > 2 ? argv[2] : "auto");
  const Kernels kernels = kernels_for(isa);
  ThreadPool pool(threads);
  std::printf("{\"threads\": %d, \"isa\": \"%s\", \"read_gb_s\": {", threads, isa_name(isa));
  const char* comma = "";
  for (const std::size_t mb : {64, 128, 256, 512}) {
    std::printf("%s\"%zu\": %.2f", comma, mb, read_gb_s(pool, mb << 20));
    comma = ", ";
  }
  std::printf("}, \"kernels\": {");
  constexpr struct {
    const char* name;
    DType dtype;
  } kKinds[] = {{"float32", DType::kF32}, {"bfloat16", DType::kBF16}, {"int8", DType::kI8}, {"int4", DType::kI4}};
  comma = "";
  for (const auto& kind : kKinds) {
    const Weights w(kind.dtype);
    double operations = 0;
    for (const Shape& s : w.shapes) operations += 2.0 * static_cast<double>(s.k * s.n);
    std::printf("%s\"%s\": {\"mb\": %.1f", comma, kind.name, static_cast<double>(w.data.size()) / 1e6);
    for (const std::size_t m : {1, 8, 32, 256}) {
      Rows rows(m, threads);
      const double seconds = median_seconds([&] { matmul_all(kernels, pool, w, rows); });
      std::printf(", \"rows_%zu\": {\"ms\": %.3f, \"gb_s\": %.2f, \"gop_s\": %.1f}", m, seconds * 1e3,
                  static_cast<double>(w.data.size()) / seconds / 1e9,
                  operations * static_cast<double>(m) / seconds / 1e9);
    }
    std::printf("}");
    comma = ", ";
  }
  std::printf("}}\n");
}
