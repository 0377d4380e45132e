#include "sampling/scan.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "sampling/exp.h"

namespace gpt2::sampling {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// x [kBlock]; adds to `bad` where there is NaN or +inf: both compare false.
float largest_of_block(const float* x, Ints4& bad) {
  Floats4 lane[4] = {load4(x), load4(x + 4), load4(x + 8), load4(x + 12)};  // independent, to hide the latency
  for (Floats4& l : lane) bad |= ~(l < kInf);
  for (std::size_t i = 16; i < kBlock; i += 16) {
    for (std::size_t j = 0; j < 4; ++j) {
      const Floats4 v = load4(x + i + 4 * j);
      bad |= ~(v < kInf);
      lane[j] = v > lane[j] ? v : lane[j];
    }
  }
  float largest = -kInf;
  for (const Floats4& l : lane) {
    for (int j = 0; j < 4; ++j) largest = l[j] > largest ? l[j] : largest;
  }
  return largest;
}

// x [kBlock]. Lane j of 8 adds elements j, j + 8, ...; then the lanes are added in pairs.
double sum_exp_of_block(const float* x, ToExponent to_z) {
  const Floats4 largest = Floats4{} + to_z.largest, temperature = Floats4{} + to_z.temperature;
  Doubles2 lane[4] = {};
  for (std::size_t i = 0; i < kBlock; i += 8) {
    const Floats4 a = exp_nonpositive((load4(x + i) - largest) / temperature);
    const Floats4 b = exp_nonpositive((load4(x + i + 4) - largest) / temperature);
    lane[0] += Doubles2{static_cast<double>(a[0]), static_cast<double>(a[1])};
    lane[1] += Doubles2{static_cast<double>(a[2]), static_cast<double>(a[3])};
    lane[2] += Doubles2{static_cast<double>(b[0]), static_cast<double>(b[1])};
    lane[3] += Doubles2{static_cast<double>(b[2]), static_cast<double>(b[3])};
  }
  const Doubles2 sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
  return sum[0] + sum[1];
}

}  // namespace

Scan scan(const float* x, std::size_t n, float* block_max) {
  float largest = -kInf;
  Ints4 lanes_bad{};
  bool bad = false;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    float block = -kInf;
    if (start + kBlock <= n) {
      block = largest_of_block(x + start, lanes_bad);
    } else {
      for (std::size_t i = start; i < n; ++i) {
        block = x[i] > block ? x[i] : block;
        bad |= !(x[i] < kInf);
      }
    }
    block_max[b] = block;
    largest = std::max(largest, block);
  }
  for (int j = 0; j < 4; ++j) bad |= lanes_bad[j] != 0;
  return {largest, bad};
}

std::size_t first_equal(const float* x, std::size_t n, const float* block_max, float largest) {
  const float* block = std::find(block_max, block_max + blocks_of(n), largest);
  const float* start = x + static_cast<std::size_t>(block - block_max) * kBlock;
  return static_cast<std::size_t>(std::find(start, x + n, largest) - x);
}

double sum_exp(const float* x, std::size_t n, ToExponent to_z, double* block_sum) {
  double total = 0.0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    double sum = 0.0;
    if (start + kBlock <= n) {
      sum = sum_exp_of_block(x + start, to_z);
    } else {
      float rest[kBlock];
      std::fill(std::copy(x + start, x + n, rest), rest + kBlock, -kInf);  // weight 0
      sum = sum_exp_of_block(rest, to_z);
    }
    if (block_sum != nullptr) block_sum[b] = sum;
    total += sum;
  }
  return total;
}

Sums sums(const float* x, std::size_t n, ToExponent to_z) {
  // Four sums side by side, so that each addition need not wait for the one before it.
  double weight[4] = {}, weighted_z[4] = {}, z1[4] = {}, z2[4] = {};
  std::size_t count[4] = {};
  const Floats4 largest = Floats4{} + to_z.largest, temperature = Floats4{} + to_z.temperature;
  for (std::size_t i = 0; i < n; i += 4) {
    Floats4 v = Floats4{} - kInf;
    std::memcpy(&v, x + i, std::min<std::size_t>(4, n - i) * sizeof(float));
    const Floats4 z = (v - largest) / temperature, w = exp_nonpositive(z);
    for (int j = 0; j < 4; ++j) {
      const bool finite = z[j] > -kInf;
      const double d = finite ? static_cast<double>(z[j]) : 0.0, e = static_cast<double>(w[j]);
      count[j] += finite ? 1 : 0;
      weight[j] += e;
      weighted_z[j] += e * d;
      z1[j] += d;
      z2[j] += d * d;
    }
  }
  const auto all = [](const auto* lane) { return (lane[0] + lane[1]) + (lane[2] + lane[3]); };
  return {all(count), all(weight), all(weighted_z), all(z1), all(z2)};
}

void exp_all(const float* z, std::size_t n, float* out) {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Floats4 w = exp_nonpositive(load4(z + i));
    std::memcpy(out + i, &w, sizeof w);
  }
  for (; i < n; ++i) out[i] = exp_nonpositive(z[i]);
}

std::size_t gather(const float* x, std::size_t n, const float* block_max, ToExponent to_z, double bound, float* out_z,
                   std::int32_t* out_index) {
  std::size_t count = 0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    if (static_cast<double>(to_z(block_max[b])) < bound) continue;
    const std::size_t end = std::min(start + kBlock, n);
    for (std::size_t i = start; i < end; ++i) {
      const float value = to_z(x[i]);
      out_z[count] = value;  // written always, kept if it counts: no branch to mispredict
      out_index[count] = static_cast<std::int32_t>(i);
      count += static_cast<double>(value) >= bound ? 1 : 0;
    }
  }
  return count;
}

}  // namespace gpt2::sampling
