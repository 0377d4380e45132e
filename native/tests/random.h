// Numbers for the tests of kernels: normally distributed, the same for the same seed.
#pragma once
#include <random>
#include <vector>

inline std::vector<float> random(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(bits);
  return out;
}
