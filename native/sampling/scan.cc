#include "sampling/scan.h"

#include <algorithm>
#include <limits>

#include "sampling/exp.h"

namespace gpt2::sampling {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// Enough independent chains to hide the latency of max and add on every vector width up to 512 bits.
constexpr std::size_t kLanes = 16;
constexpr std::size_t kSumLanes = 8;

}  // namespace

Scan scan(const float* x, std::size_t n, float* block_max) {
  float largest = -kInf;
  std::uint32_t bad = 0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    float block = -kInf;
    if (start + kBlock <= n) {
      float lane[kLanes];
      std::uint32_t lane_bad[kLanes] = {};
      std::fill_n(lane, kLanes, -kInf);
      for (std::size_t i = start; i < start + kBlock; i += kLanes) {
        for (std::size_t l = 0; l < kLanes; ++l) {
          const float v = x[i + l];
          lane[l] = v > lane[l] ? v : lane[l];
          lane_bad[l] |= v < kInf ? 0u : 1u;  // NaN and +inf compare false
        }
      }
      for (std::size_t l = 0; l < kLanes; ++l) {
        block = std::max(block, lane[l]);
        bad |= lane_bad[l];
      }
    } else {
      for (std::size_t i = start; i < n; ++i) {
        block = x[i] > block ? x[i] : block;
        bad |= x[i] < kInf ? 0u : 1u;
      }
    }
    block_max[b] = block;
    largest = std::max(largest, block);
  }
  return {largest, bad != 0};
}

std::size_t first_equal(const float* x, std::size_t n, const float* block_max, float largest) {
  const std::size_t block =
      static_cast<std::size_t>(std::find(block_max, block_max + blocks_of(n), largest) - block_max);
  return static_cast<std::size_t>(std::find(x + block * kBlock, x + n, largest) - x);
}

double sum_exp(const float* x, std::size_t n, ToExponent z, double* block_sum) {
  double total = 0.0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    const std::size_t count = std::min(kBlock, n - start);
    float weight[kBlock] = {};
    if (count == kBlock) {  // a constant trip count, for the vectoriser
      for (std::size_t i = 0; i < kBlock; ++i) weight[i] = exp_nonpositive(z(x[start + i]));
    } else {
      for (std::size_t i = 0; i < count; ++i) weight[i] = exp_nonpositive(z(x[start + i]));
    }
    double lane[kSumLanes] = {};
    for (std::size_t i = 0; i < kBlock; i += kSumLanes) {
      for (std::size_t l = 0; l < kSumLanes; ++l) lane[l] += static_cast<double>(weight[i + l]);
    }
    const double sum = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    if (block_sum != nullptr) block_sum[b] = sum;
    total += sum;
  }
  return total;
}

std::size_t gather(const float* x, std::size_t n, const float* block_max, ToExponent z, double bound, float* out_z,
                   std::int32_t* out_index) {
  std::size_t count = 0;
  for (std::size_t start = 0, b = 0; start < n; start += kBlock, ++b) {
    if (static_cast<double>(z(block_max[b])) < bound) continue;
    const std::size_t end = std::min(start + kBlock, n);
    for (std::size_t i = start; i < end; ++i) {
      const float value = z(x[i]);
      out_z[count] = value;  // written always, kept if it counts: no branch to mispredict
      out_index[count] = static_cast<std::int32_t>(i);
      count += static_cast<double>(value) >= bound ? 1 : 0;
    }
  }
  return count;
}

}  // namespace gpt2::sampling
