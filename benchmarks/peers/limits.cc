// What this machine gives: read bandwidth at given working sets, and arithmetic with each kind of unit it has.
//
//     limits THREADS MEGABYTES...     ->  one line of JSON: GB/s for each size, and 1e9 operations/s for each kind
//
// Each thread reads its share of one buffer again and again, in eight independent streams of vector loads; the sums are
// kept so that nothing is dropped. Arithmetic runs from registers: the best that a kernel could reach with free loads.
// x86-64 only. Knows nothing of engines; harness/limits.py compiles and runs it.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

// The accumulators are arrays; unrolled, they are registers.
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

namespace {

using Clock = std::chrono::steady_clock;
std::atomic<std::uint64_t> sink{0};

double seconds_since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

// Seconds until all threads have run work(thread).
double together(int threads, const std::function<void(int)>& work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      ++ready;
      while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
      work(t);
    });
  }
  // More threads wait than there are cores: under a real-time policy a loop without yield would wait for ever.
  while (ready.load() < threads) std::this_thread::yield();
  const auto began = Clock::now();
  go.store(true, std::memory_order_release);
  for (auto& thread : pool) thread.join();
  return seconds_since(began);
}

__attribute__((target("avx2"))) void read_all(const std::uint8_t* data, std::size_t bytes) {
  __m256i sum[8];
  UNROLL for (auto& s : sum) s = _mm256_setzero_si256();
  const std::size_t stream = bytes / 8 / 32 * 32;
  for (std::size_t i = 0; i < stream; i += 32) {
    UNROLL for (std::size_t k = 0; k < 8; ++k) {
      const auto* at = reinterpret_cast<const __m256i*>(data + k * stream + i);
      sum[k] = _mm256_xor_si256(sum[k], _mm256_loadu_si256(at));
    }
  }
  UNROLL for (std::size_t k = 1; k < 8; ++k) sum[0] = _mm256_xor_si256(sum[0], sum[k]);
  sink += static_cast<std::uint64_t>(_mm256_extract_epi64(sum[0], 0));
}

// GB/s, the best of several passes of at least 20 ms each.
double bandwidth(int threads, std::size_t bytes) {
  std::vector<std::uint8_t> data(bytes, 1);
  const std::size_t share = bytes / static_cast<std::size_t>(threads) / 256 * 256;
  const auto passes = 1 + static_cast<int>(1e9 / static_cast<double>(bytes));
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const double seconds = together(threads, [&](int t) {
      for (int p = 0; p < passes; ++p) read_all(data.data() + static_cast<std::size_t>(t) * share, share);
    });
    const double read = static_cast<double>(share) * threads * passes;
    best = std::max(best, read / seconds / 1e9);
  }
  return best;
}

constexpr int kRounds = 2'000'000;

// Each sum is a value of its own: the compiler must not see that all begin alike, or it computes one for all of them.
__attribute__((target("avx2,fma"))) double float32_avx2() {
  __m256 sum[12];
  UNROLL for (auto& s : sum) {
    s = _mm256_set1_ps(1e-3F);
    asm volatile("" : "+x"(s));
  }
  const __m256 x = _mm256_set1_ps(0.999F);
  for (int i = 0; i < kRounds; ++i) UNROLL for (auto& s : sum) s = _mm256_fmadd_ps(s, x, x);
  UNROLL for (auto& s : sum) sink += static_cast<std::uint64_t>(_mm256_cvtss_f32(s));
  return 12.0 * 16 * kRounds;
}

__attribute__((target("avx512f"))) double float32_avx512() {
  __m512 sum[16];
  UNROLL for (auto& s : sum) {
    s = _mm512_set1_ps(1e-3F);
    asm volatile("" : "+x"(s));
  }
  const __m512 x = _mm512_set1_ps(0.999F);
  for (int i = 0; i < kRounds; ++i) UNROLL for (auto& s : sum) s = _mm512_fmadd_ps(s, x, x);
  UNROLL for (auto& s : sum) sink += static_cast<std::uint64_t>(_mm512_cvtss_f32(s));
  return 16.0 * 32 * kRounds;
}

// Eight sums that live in registers for the whole loop: through the intrinsic GCC 12 copies each of them to another
// register and back, and loop and instruction in one asm statement leave it nothing to move.
__attribute__((target("avx512f,avx512vnni"))) double int8_vnni() {
  const __m512i x = _mm512_set1_epi8(1);
  int left = kRounds;
  asm volatile(
      "1:\n\t"
      "vpdpbusd %1, %1, %%zmm0\n\tvpdpbusd %1, %1, %%zmm1\n\tvpdpbusd %1, %1, %%zmm2\n\tvpdpbusd %1, %1, %%zmm3\n\t"
      "vpdpbusd %1, %1, %%zmm4\n\tvpdpbusd %1, %1, %%zmm5\n\tvpdpbusd %1, %1, %%zmm6\n\tvpdpbusd %1, %1, %%zmm7\n\t"
      "decl %0\n\tjnz 1b"
      : "+r"(left)
      : "v"(x)
      : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "cc");
  return 8.0 * 128 * kRounds;
}

__attribute__((target("avx512f,avx512bf16"))) double bf16_avx512() {
  __m512 sum[16];
  UNROLL for (auto& s : sum) {
    s = _mm512_set1_ps(1e-3F);
    asm volatile("" : "+x"(s));
  }
  const __m512bh x = _mm512_cvtne2ps_pbh(sum[0], sum[1]);
  for (int i = 0; i < kRounds; ++i) UNROLL for (auto& s : sum) s = _mm512_dpbf16_ps(s, x, x);
  UNROLL for (auto& s : sum) sink += static_cast<std::uint64_t>(_mm512_cvtss_f32(s));
  return 16.0 * 64 * kRounds;
}

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

bool amx_allowed() {
  constexpr int kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}

// Tiles 0..3 accumulate, 4..7 are factors. bf16: 16 * 16 * 32 products an instruction; int8: 16 * 16 * 64.
__attribute__((target("amx-tile,amx-int8,amx-bf16"))) double amx(bool int8) {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // GCC 12 drops the stores otherwise
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  const int rounds = kRounds / 20;
  for (int i = 0; i < rounds; ++i) {
    if (int8) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_release();
  return 4.0 * 2 * 16 * 16 * (int8 ? 64 : 32) * rounds;
}

void print_arithmetic(const char* name, int threads, const std::function<double()>& work, bool& first) {
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    std::atomic<double> done{0};
    const double seconds = together(threads, [&](int) { done = work(); });
    best = std::max(best, done.load() * threads / seconds / 1e9);
  }
  std::printf("%s\"%s\": %.1f", first ? "" : ", ", name, best);
  first = false;
}

bool cpu_flag(unsigned leaf_bit) {
  unsigned a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return ((d >> leaf_bit) & 1U) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::printf("{\"read_gb_s\": {");
  for (int i = 2; i < argc; ++i) {
    const double megabytes = std::atof(argv[i]);
    const double found = bandwidth(threads, static_cast<std::size_t>(megabytes * 1e6));
    std::printf("%s\"%s\": %.2f", i > 2 ? ", " : "", argv[i], found);
  }
  std::printf("}, \"gops\": {");
  bool first = true;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f"))
    print_arithmetic("float32", threads, float32_avx512, first);
  else
    print_arithmetic("float32", threads, float32_avx2, first);
  if (__builtin_cpu_supports("avx512bf16")) print_arithmetic("bf16_vector", threads, bf16_avx512, first);
  if (__builtin_cpu_supports("avx512vnni")) print_arithmetic("int8_vector", threads, int8_vnni, first);
  constexpr unsigned kAmxBf16 = 22, kAmxInt8 = 25;
  if (cpu_flag(kAmxInt8) && cpu_flag(kAmxBf16) && amx_allowed()) {
    print_arithmetic(
        "bf16_matrix", threads, [] { return amx(false); }, first);
    print_arithmetic(
        "int8_matrix", threads, [] { return amx(true); }, first);
  }
  std::printf("}}\n");
  return sink.load() == 42 ? 1 : 0;
}
