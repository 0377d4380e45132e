#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "base/errors.h"

namespace gpt2::tokenizer {

Bpe::Bpe(const Vocabulary& vocabulary) : ranks_(vocabulary.merges().size()) {
  for (unsigned byte = 0; byte < 256; ++byte) byte_ids_[byte] = vocabulary.byte_id(static_cast<std::uint8_t>(byte));
  products_.reserve(vocabulary.merges().size());
  for (const Merge& m : vocabulary.merges()) {
    // A pair that is listed twice has the later rank, as in Hugging Face tokenizers.
    ranks_[pair_key(m.left, m.right)] = static_cast<std::uint32_t>(products_.size());
    products_.push_back(m.product);
  }
}

void Bpe::encode_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const {
  if (size == 0) return;
  if (size <= kShort) {
    short_word(word, size, out);
  } else {
    long_word(word, size, scratch, out);
  }
}

void Bpe::short_word(const std::uint8_t* word, std::size_t size, IdBuffer& out) const {
  std::uint32_t ids[kShort], ranks[kShort];
  for (std::size_t i = 0; i < size; ++i) ids[i] = byte_ids_[word[i]];
  std::size_t pairs = size - 1;
  for (std::size_t i = 0; i < pairs; ++i) ranks[i] = rank(ids[i], ids[i + 1]);
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

void Bpe::long_word(const std::uint8_t* word, std::size_t size, BpeScratch& scratch, IdBuffer& out) const {
  if (size >= kNone) {
    throw Error(ErrorKind::kInvalidRequest, "one word of the text", std::to_string(size) + " bytes", "less than 4 GiB");
  }
  auto& [ids, ranks, previous, following, heap] = scratch;
  const auto n = static_cast<std::uint32_t>(size);
  ids.resize(n);
  ranks.assign(n, kNone);  // ranks[i]: of the symbol that begins at byte i and its right neighbour; kNone also when gone
  previous.resize(n);
  following.resize(n);
  heap.clear();
  for (std::uint32_t i = 0; i < n; ++i) {
    ids[i] = byte_ids_[word[i]];
    previous[i] = i - 1;  // of the first: kNone
    following[i] = i + 1;
  }
  // Lowest rank first, then leftmost: both are in one number.
  const auto key = [](std::uint32_t r, std::uint32_t at) { return (static_cast<std::uint64_t>(r) << 32) | at; };
  const std::greater<std::uint64_t> lowest_first;
  for (std::uint32_t i = 0; i + 1 < n; ++i) {
    ranks[i] = rank(ids[i], ids[i + 1]);
    if (ranks[i] != kNone) heap.push_back(key(ranks[i], i));
  }
  std::make_heap(heap.begin(), heap.end(), lowest_first);
  const auto update = [&](std::uint32_t at) {
    ranks[at] = following[at] < n ? rank(ids[at], ids[following[at]]) : kNone;
    if (ranks[at] == kNone) return;
    heap.push_back(key(ranks[at], at));
    std::push_heap(heap.begin(), heap.end(), lowest_first);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), lowest_first);
    const auto best = static_cast<std::uint32_t>(heap.back() >> 32);
    const auto at = static_cast<std::uint32_t>(heap.back());
    heap.pop_back();
    if (ranks[at] != best) continue;  // the pair has changed since
    const std::uint32_t gone = following[at];
    ids[at] = products_[best];
    ranks[gone] = kNone;
    following[at] = following[gone];
    if (following[at] < n) previous[following[at]] = at;
    update(at);
    if (previous[at] != kNone) update(previous[at]);
  }
  for (std::uint32_t i = 0; i < n; i = following[i]) out.push_back(static_cast<std::int32_t>(ids[i]));
}

}  // namespace gpt2::tokenizer
