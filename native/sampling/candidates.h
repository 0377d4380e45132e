// The tokens that may still be drawn, and the rules that decide which: temperature, top_k, top_p and their kin.
//
// A candidate is its id and z = (score - largest score) / temperature, in float32; its weight is exp(z) (exp.h:
// float32, relative error <= 2^-22), and sums of weights are double; z < -87 has weight 0. As long as no rule has taken
// any away all V tokens are candidates and nothing is copied: each rule has a way to begin that reads the scores in
// place and keeps the few that it can be about.
//
// "Ties" are equal z. A rule keeps at least the `min_keep` largest, and what ties with them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "sampling/params.h"
#include "sampling/scan.h"

namespace gpt2::sampling {

using TokenLogprob = std::pair<std::int32_t, float>;

class Candidates {
 public:
  explicit Candidates(std::size_t vocab_size);

  // All of x [V], of which `largest` is the largest (finite); block_max as of scan(). Both are read until the next
  // begin(). `offset` is what x lacks of the scores that process() gives.
  void begin(const float* x, const float* block_max, float largest, std::size_t min_keep, double offset);

  // What mirostat needs besides its params: how surprising a token may be, in bits. coin: for xtc, in [0, 1).
  void apply(Rule rule, const Params& params, double mu, double coin);

  // The first token in order of the id whose cumulative weight exceeds u of the total.
  std::int32_t pick(double u);

  // -log2 of the probability of the token that pick() gave.
  double surprise() const;

  // Scores z: to out [V], -inf for what is no candidate.
  void scatter_z(float* out) const;
  // Scores as rules before this room would have them: z plus what begin() and temperature took away.
  void scatter_scores(float* out) const;
  double offset() const { return offset_; }

  // The k largest of x [V], best first, ties by id. Leaves no candidates.
  std::vector<TokenLogprob> best(const float* x, const float* block_max, std::size_t k);

 private:
  ToExponent to_z() const { return {largest_, temperature_}; }
  void temperature(const Params& params);
  void top_k(std::size_t k);
  void top_p(double p);
  void top_h(double part);
  void typical_p(double p);
  void xtc(double threshold);
  void mirostat_1(double mu);
  Sums current_sums();
  double total_weight();
  float largest_z() const;
  void keep_above(double bound);
  void gather_above(double bound);
  void gather_largest(std::size_t k);
  double at_least_k(std::size_t k);
  float kth_largest(std::size_t k);
  double weigh();
  std::vector<float>& sorted_z(std::size_t k);
  std::size_t crossing(const std::vector<float>& rank, double target);
  template <typename Keep>
  void keep_if(const Keep& keep);
  std::int32_t pick_from_all(double u);

  // Of begin().
  const float* x_ = nullptr;
  const float* block_max_ = nullptr;
  float largest_ = 0.0f, temperature_ = 1.0f;
  std::size_t min_keep_ = 1;
  double offset_ = 0.0;

  bool whole_ = true;  // all tokens: z_ and id_ are not filled
  std::size_t count_ = 0;
  std::vector<float> z_, weight_, rank_;
  std::vector<std::int32_t> id_, order_;
  std::vector<double> block_sum_, bucket_mass_;
  double picked_z_ = 0.0, picked_total_ = 1.0;
};

}  // namespace gpt2::sampling
