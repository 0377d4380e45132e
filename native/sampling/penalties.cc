#include "sampling/penalties.h"

#include <algorithm>
#include <limits>

namespace gpt2::sampling {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

}  // namespace

void SeenSet::clear() {
  if (++now_ == 0) {  // the stamps of 2^32 calls ago would look fresh
    std::fill(stamp_.begin(), stamp_.end(), 0u);
    now_ = 1;
  }
}

bool SeenSet::insert(std::int32_t id) {
  std::uint32_t& stamp = stamp_[static_cast<std::size_t>(id)];
  if (stamp == now_) return false;
  stamp = now_;
  return true;
}

void penalise_repetition(float* scores, History history, float penalty, SeenSet& seen) {
  seen.clear();
  for (std::size_t i = 0; i < history.length; ++i) {
    if (!seen.insert(history.ids[i])) continue;
    float& score = scores[history.ids[i]];
    score = score < 0.0f ? score * penalty : score / penalty;
  }
}

void ban_repeated_ngrams(float* scores, History history, std::size_t n) {
  if (history.length < n) return;
  const std::int32_t* tail = history.ids + history.length - (n - 1);  // the n - 1 ids that the next one would follow
  for (std::size_t start = 0; start + n <= history.length; ++start) {
    if (std::equal(tail, tail + (n - 1), history.ids + start)) scores[history.ids[start + n - 1]] = kBanned;
  }
}

void ban(float* scores, const std::vector<std::int32_t>& ids) {
  for (const std::int32_t id : ids) scores[id] = kBanned;
}

}  // namespace gpt2::sampling
