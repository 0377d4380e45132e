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
    lane[0] += low2(a), lane[1] += high2(a);
    lane[2] += low2(b), lane[3] += high2(b);
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

namespace {

// Four sums of doubles side by side: lane j has the elements j, j + 4, ... Two registers, so that the compiler keeps
// all of Sums in registers, and each addition need not wait for the one before it.
struct Lanes {
  Doubles2 low{}, high{};
  double all() const { return (low[0] + low[1]) + (high[0] + high[1]); }
};

struct SumLanes {
  Lanes weight, weighted_z, z, z2;
  Ints4 finite{};

  // Adds four values; the weight of each, which it returns, is 0 where z is -inf.
  Floats4 add(Floats4 z_or_inf) {
    const Ints4 is_finite = z_or_inf > -kInf;
    const Floats4 d = is_finite ? z_or_inf : Floats4{}, w = exp_nonpositive(z_or_inf);
    finite -= is_finite;  // true is -1
    const Doubles2 d_low = low2(d), d_high = high2(d), w_low = low2(w), w_high = high2(w);
    weight.low += w_low, weight.high += w_high;
    weighted_z.low += w_low * d_low, weighted_z.high += w_high * d_high;
    z.low += d_low, z.high += d_high;
    z2.low += d_low * d_low, z2.high += d_high * d_high;
    return w;
  }
};

// Up to four values, and -inf for the rest.
Floats4 load_rest(const float* x, std::size_t n) {
  Floats4 v = Floats4{} - kInf;
  std::memcpy(&v, x, n * sizeof(float));
  return v;
}

}  // namespace

Sums sums(const float* x, std::size_t n, ToExponent to_z, float* weight) {
  SumLanes lanes;
  const Floats4 largest = Floats4{} + to_z.largest, temperature = Floats4{} + to_z.temperature;
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Floats4 w = lanes.add((load4(x + i) - largest) / temperature);
    if (weight != nullptr) std::memcpy(weight + i, &w, sizeof w);
  }
  if (i < n) {
    const Floats4 w = lanes.add((load_rest(x + i, n - i) - largest) / temperature);
    if (weight != nullptr) std::memcpy(weight + i, &w, (n - i) * sizeof(float));
  }
  std::size_t count = 0;
  for (int j = 0; j < 4; ++j) count += static_cast<std::size_t>(lanes.finite[j]);
  return {count, lanes.weight.all(), lanes.weighted_z.all(), lanes.z.all(), lanes.z2.all()};
}

double exp_all(const float* z, std::size_t n, float* out) {
  Lanes total;
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Floats4 w = exp_nonpositive(load4(z + i));
    std::memcpy(out + i, &w, sizeof w);
    total.low += low2(w), total.high += high2(w);
  }
  if (i < n) {
    const Floats4 w = exp_nonpositive(load_rest(z + i, n - i));
    std::memcpy(out + i, &w, (n - i) * sizeof(float));
    total.low += low2(w), total.high += high2(w);
  }
  return total.all();
}

std::size_t gather(const float* x, std::size_t n, const float* block_max, ToExponent to_z, double bound, float* out_z,
                   std::int32_t* out_index) {
  std::size_t count = 0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    if (static_cast<double>(to_z(block_max[b])) < bound) continue;
    const std::size_t length = std::min(kBlock, n - start);
    float z[kBlock];  // by itself, because the compiler then divides four at a time
    for (std::size_t i = 0; i < length; ++i) z[i] = to_z(x[start + i]);
    for (std::size_t i = 0; i < length; ++i) {
      out_z[count] = z[i];  // written always, kept if it counts: no branch to mispredict
      out_index[count] = static_cast<std::int32_t>(start + i);
      count += static_cast<double>(z[i]) >= bound ? 1 : 0;
    }
  }
  return count;
}

}  // namespace gpt2::sampling
