// The passes over all V logits: largest value, sum of exponentials, values above a bound.
//
// They work in blocks of fixed size with fixed lanes, so the order of summation is part of the source: the same bits on
// every machine. The largest value of each block lets later passes skip the blocks that hold nothing of interest, which
// for a language model are nearly all.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gpt2::sampling {

// 64 floats are 4 cache lines: small enough that most blocks are skipped, large enough that V / 64 maxima are few.
inline constexpr std::size_t kBlock = 64;

constexpr std::size_t blocks_of(std::size_t n) { return (n + kBlock - 1) / kBlock; }

struct Scan {
  float largest;        // -inf if every value is
  bool has_nan_or_inf;  // NaN or +inf among the values
};

// x [n]; block_max [blocks_of(n)] receives the largest value of each block.
Scan scan(const float* x, std::size_t n, float* block_max);

// The index of the first element that equals `largest`; one must.
std::size_t first_equal(const float* x, std::size_t n, const float* block_max, float largest);

// The affine map that turns a logit into the exponent of its weight.
struct ToExponent {
  float largest;
  float temperature;
  float operator()(float x) const { return (x - largest) / temperature; }
};

// Sum over x [n] of exp_nonpositive(z(x)); block_sum [blocks_of(n)], if not null, receives the sum of each block.
double sum_exp(const float* x, std::size_t n, ToExponent to_z, double* block_sum);

// Over the finite x [n]: how many they are, and what a softmax of z(x) says of them.
struct Sums {
  std::size_t count = 0;
  double weight = 0.0;       // sum of exp(z)
  double weighted_z = 0.0;   // sum of exp(z) z
  double z = 0.0, z2 = 0.0;  // sums of z and of z^2
};
// weight [n], if not null, receives exp_nonpositive(z); it may be x.
Sums sums(const float* x, std::size_t n, ToExponent to_z, float* weight = nullptr);

// out[i] = exp_nonpositive(z[i]), both [n]; out may be z. Returns their sum.
double exp_all(const float* z, std::size_t n, float* out);

// Writes z and index of every x with z(x) >= bound, in the order of the index; returns how many.
// Both outputs have room for n.
std::size_t gather(const float* x, std::size_t n, const float* block_max, ToExponent to_z, double bound, float* out_z,
                   std::int32_t* out_index);

}  // namespace gpt2::sampling
