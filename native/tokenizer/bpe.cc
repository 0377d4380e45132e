#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <iterator>

#include "base/errors.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::uint32_t kNoQueue = 0xFFFFFFFFu;

}  // namespace

Bpe::Bpe(const Vocabulary& vocabulary) : byte_ranks_(256 * 256, kNone), merges_(vocabulary.merges()) {
  std::vector<int> byte_of(vocabulary.size(), -1);
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = vocabulary.byte_id(static_cast<std::uint8_t>(byte));
    byte_of[byte_ids_[byte]] = static_cast<int>(byte);
  }
  products_.reserve(vocabulary.merges().size());
  for (const Merge& m : vocabulary.merges()) {
    if (byte_of[m.left] >= 0 && byte_of[m.right] >= 0) {
      byte_ranks_[static_cast<std::size_t>(byte_of[m.left] << 8 | byte_of[m.right])] =
          static_cast<std::uint32_t>(products_.size());
    }
    products_.push_back(m.product);
    note_borders(vocabulary.token(m.product));
  }
}

void Bpe::note_borders(std::string_view token) {
  const auto at = [token](std::size_t i) { return static_cast<std::uint8_t>(token[i]); };
  for (std::size_t i = 1; i < token.size(); ++i) {
    joins_[(at(i - 1) << 2) | (at(i) >> 6)] |= std::uint64_t{1} << (at(i) & 63);
    if (at(i) < 0xC0) continue;
    const std::uint32_t left = i >= 2 ? at(i - 2) : kAny, right = i + 1 < token.size() ? at(i + 1) : kAny;
    const std::size_t bit = context(left, at(i - 1), at(i), right);
    contexts_[bit / 64] |= std::uint64_t{1} << (bit % 64);
  }
}

void Bpe::encode_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const {
  if (size == 0) return;
  if (size <= kTiny) {
    tiny_word(word, size, out);
  } else if (size <= kShort) {
    short_word(word, size, out);
  } else {
    long_word(word, size, scratch, out);
  }
}

void Bpe::tiny_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const {
  // One number for each pair: its rank and, in the low bits, where it begins, so that the smallest says which and where
  // and the leftmost comes first. All 16 are always compared: a loop of fixed length has no branch to guess.
  constexpr std::int32_t kGone = 0x7FFFFFFF;
  constexpr unsigned kAtBits = 4;  // ranks have 22 bits
  const auto pair_at = [](std::uint32_t rank, unsigned at) {
    return rank == kNone ? kGone : static_cast<std::int32_t>((rank << kAtBits) | at);
  };
  std::int32_t pairs[kTiny];
  std::uint32_t ids[kTiny];
  std::fill(std::begin(pairs), std::end(pairs), kGone);
  ids[0] = byte_ids_[word[0]];
  for (unsigned i = 1; i < size; ++i) {
    ids[i] = byte_ids_[word[i]];
    pairs[i - 1] = pair_at(byte_rank(word[i - 1], word[i]), i - 1);
  }
  std::uint32_t alive = (1u << size) - 1;  // bit i: a token begins at byte i
  while (true) {
    std::int32_t best = kGone;
    for (const std::int32_t pair : pairs) best = std::min(best, pair);
    if (best == kGone) break;
    const auto at = static_cast<unsigned>(best) & (kTiny - 1);
    const std::uint32_t after = alive & (~1u << at);
    const auto gone = static_cast<unsigned>(std::countr_zero(after));
    const std::uint32_t rest = after & (after - 1), before = alive & ((1u << at) - 1);
    alive &= ~(1u << gone);
    ids[at] = products_[static_cast<std::uint32_t>(best) >> kAtBits];
    pairs[gone] = kGone;
    pairs[at] = rest ? pair_at(rank(ids[at], ids[std::countr_zero(rest)]), at) : kGone;
    if (before) {
      const auto previous = static_cast<unsigned>(31 - std::countl_zero(before));
      pairs[previous] = pair_at(rank(ids[previous], ids[at]), previous);
    }
  }
  std::int32_t* to = out.reserve(kTiny);
  std::size_t count = 0;
  for (; alive != 0; alive &= alive - 1) to[count++] = static_cast<std::int32_t>(ids[std::countr_zero(alive)]);
  out.commit(count);
}

void Bpe::short_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const {
  std::uint32_t ids[kShort], ranks[kShort];
  for (std::size_t i = 0; i < size; ++i) ids[i] = byte_ids_[word[i]];
  std::size_t pairs = size - 1;
  for (std::size_t i = 0; i < pairs; ++i) ranks[i] = byte_rank(word[i], word[i + 1]);
  while (pairs > 0) {
    std::uint32_t best = kNone;
    for (std::size_t i = 0; i < pairs; ++i) best = std::min(best, ranks[i]);
    if (best == kNone) break;
    const auto at = static_cast<std::size_t>(std::find(ranks, ranks + pairs, best) - ranks);
    ids[at] = products_[best];
    std::copy(ids + at + 2, ids + pairs + 1, ids + at + 1);
    std::copy(ranks + at + 1, ranks + pairs, ranks + at);
    --pairs;
    if (at > 0) ranks[at - 1] = rank(ids[at - 1], ids[at]);
    if (at < pairs) ranks[at] = rank(ids[at], ids[at + 1]);
  }
  std::int32_t* to = out.reserve(pairs + 1);
  for (std::size_t i = 0; i <= pairs; ++i) to[i] = static_cast<std::int32_t>(ids[i]);
  out.commit(pairs + 1);
}

namespace {

// Puts a position into the queue of its rank.
void enqueue(BpeScratch& s, std::uint32_t rank, std::uint32_t at) {
  std::uint32_t& index = s.queue_of_rank[rank];
  if (index == kNoQueue) {
    index = static_cast<std::uint32_t>(s.queues.size());
    s.queues.emplace_back();
    s.queues.back().rank = rank;
  }
  BpeScratch::Queue& queue = s.queues[index];
  if (queue.next == queue.positions.size()) {  // empty: it is not among the lowest
    queue.positions.clear();
    queue.next = 0;
    queue.sorted = true;
    s.lowest.push_back(rank);
    std::push_heap(s.lowest.begin(), s.lowest.end(), std::greater<>());
  } else if (queue.positions.back() > at) {
    queue.sorted = false;
  }
  queue.positions.push_back(at);
}

// The lowest rank that has positions, its positions in order; false when there is none left.
bool lowest_queue(BpeScratch& s, std::uint32_t& index) {
  if (s.lowest.empty()) return false;
  index = s.queue_of_rank[s.lowest.front()];
  BpeScratch::Queue& queue = s.queues[index];
  if (!queue.sorted) {
    std::sort(queue.positions.begin() + static_cast<std::ptrdiff_t>(queue.next), queue.positions.end());
    queue.sorted = true;
  }
  return true;
}

void reset(BpeScratch& s) {
  for (const BpeScratch::Queue& queue : s.queues) s.queue_of_rank[queue.rank] = kNoQueue;
  s.queues.clear();
  s.lowest.clear();
  if (s.ids.size() > BpeScratch::kKept) s = BpeScratch{};
}

}  // namespace

void Bpe::long_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const {
  if (size >= kNone) {
    throw Error(ErrorKind::kInvalidRequest, "one word of the text", std::to_string(size) + " bytes", "less than 4 GiB");
  }
  const auto n = static_cast<std::uint32_t>(size);
  scratch.ids.resize(n);
  scratch.ranks.assign(n, kNone);
  scratch.previous.resize(n);
  scratch.following.resize(n);
  scratch.queue_of_rank.resize(products_.size(), kNoQueue);
  std::uint32_t* const ids = scratch.ids.data();
  std::uint32_t* const ranks = scratch.ranks.data();  // of symbol i and its right neighbour; kNone also when i is gone
  std::uint32_t* const previous = scratch.previous.data();
  std::uint32_t* const following = scratch.following.data();
  for (std::uint32_t i = 0; i < n; ++i) {
    ids[i] = byte_ids_[word[i]];
    previous[i] = i - 1;  // of the first: kNone
    following[i] = i + 1;
    if (i + 1 < n) ranks[i] = byte_rank(word[i], word[i + 1]);
    if (ranks[i] != kNone) enqueue(scratch, ranks[i], i);
  }
  const auto update = [&](std::uint32_t at) {
    ranks[at] = following[at] < n ? rank(ids[at], ids[following[at]]) : kNone;
    if (ranks[at] != kNone) enqueue(scratch, ranks[at], at);
  };
  // A merge makes pairs of other ranks only: the product is longer than both parts, so it is neither of them. While a
  // queue is worked off, a lower rank may appear; it is then taken first.
  std::uint32_t index = 0;
  while (lowest_queue(scratch, index)) {
    const std::uint32_t best = scratch.queues[index].rank;
    while (scratch.lowest.front() == best) {
      BpeScratch::Queue& queue = scratch.queues[index];
      if (queue.next == queue.positions.size()) {
        std::pop_heap(scratch.lowest.begin(), scratch.lowest.end(), std::greater<>());
        scratch.lowest.pop_back();
        break;
      }
      const std::uint32_t at = queue.positions[queue.next++];
      if (ranks[at] != best) continue;  // the pair has changed since
      const std::uint32_t gone = following[at];
      ids[at] = products_[best];
      ranks[gone] = kNone;
      following[at] = following[gone];
      if (following[at] < n) previous[following[at]] = at;
      if (previous[at] != kNone) update(previous[at]);
      update(at);
    }
  }
  for (std::uint32_t i = 0; i < n; i = following[i]) out.push_back(static_cast<std::int32_t>(ids[i]));
  reset(scratch);
}

}  // namespace gpt2::tokenizer
