#include "tokenizer/word_encoder.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "tokenizer/pretokenizer.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::size_t kBatch = 512;             // pre-tokens cut at a time
constexpr std::size_t kLoad = 16;               // bytes that are read of a word at once
constexpr std::size_t kGroup = 32;              // words looked up together
constexpr std::uint8_t kFirstLeadOfCjk = 0xE3;  // of U+3000 to U+FFFF, and of all that is beyond

// The bytes of a word within the two halves of its key.
struct Masks {
  std::uint64_t low[kLoad]{}, high[kLoad]{};
  constexpr Masks() {
    for (unsigned n = 1; n < kLoad; ++n) {
      low[n] = n >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * n)) - 1;
      high[n] = n > 8 ? (std::uint64_t{1} << (8 * (n - 8))) - 1 : 0;
    }
  }
};
constexpr Masks kMasks;

// How far the next border is at which cutting pays: within a character it seldom does. Only speed depends on it.
inline std::size_t step(std::uint8_t lead) { return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

}  // namespace

void WordEncoder::Free::operator()(Entry* p) const { std::free(p); }

// calloc, because the system hands out zeroed pages only when they are touched. A key is never zero.
WordEncoder::Entry* WordEncoder::new_entries(unsigned bits) {
  auto* entries = static_cast<Entry*>(std::calloc(std::size_t{2} << bits, sizeof(Entry)));
  if (entries == nullptr) throw std::bad_alloc();
  return entries;
}

WordEncoder::WordEncoder(const Bpe& bpe) : bpe_(bpe), entries_(new_entries(bits_)) { pool_.resize(kPool + kLoad); }

inline WordEncoder::Key WordEncoder::key_of(const std::uint8_t* word, std::size_t size) {
  Key key;
  std::memcpy(&key.low, word, 8);
  std::memcpy(&key.high, word + 8, 8);
  key.low &= kMasks.low[size];
  key.high = (key.high & kMasks.high[size]) | (static_cast<std::uint64_t>(size) << 56);
  return key;
}

inline WordEncoder::Entry* WordEncoder::line(const Key& key) const {
  std::uint64_t h = (key.low ^ (key.high * 0x9E3779B97F4A7C15u)) * 0x9FB21C651E98DF25u;
  h ^= h >> 29;
  h *= 0x9E3779B97F4A7C15u;
  return entries_.get() + 2 * (h >> (64 - bits_));
}

inline const WordEncoder::Entry* WordEncoder::find(const Key& key) const {
  const Entry* e = line(key);
  if (e[0].low == key.low && e[0].high == key.high) return e;
  if (e[1].low == key.low && e[1].high == key.high) return e + 1;
  return nullptr;
}

// Four times the lines. What two entries of a line would push out in the new table is not worth the order they came in.
void WordEncoder::grow() {
  const unsigned before = bits_;
  std::unique_ptr<Entry[], Free> old(new_entries(before + 2));
  old.swap(entries_);
  bits_ += 2;
  inserted_ = 0;
  for (std::size_t i = std::size_t{2} << before; i-- > 0;) {
    if (old[i].high == 0) continue;
    Entry* e = line({old[i].low, old[i].high});
    e[1] = e[0];
    e[0] = old[i];
  }
}

void WordEncoder::insert(const Key& key, const std::int32_t* ids, std::size_t count) {
  if (count > kInline && pooled_ + count > kPool) {
    std::memset(static_cast<void*>(entries_.get()), 0, (std::size_t{2} << bits_) * sizeof(Entry));
    pooled_ = 0;
  }
  ++inserted_;
  Entry* e = line(key);
  e[1] = e[0];
  e[0] = {key.low, key.high, {}, static_cast<std::uint32_t>(count)};
  if (count <= kInline) {
    for (std::size_t i = 0; i < count; ++i) e[0].ids[i] = static_cast<std::uint32_t>(ids[i]);
  } else {
    e[0].ids[0] = static_cast<std::uint32_t>(pooled_);
    std::memcpy(pool_.data() + pooled_, ids, count * sizeof(std::int32_t));
    pooled_ += count;
  }
}

// Whether something may be merged across the border before byte i > 0; looks beyond the word, which can only make it
// true.
inline bool WordEncoder::joined(const std::uint8_t* text, std::size_t size, std::size_t i) const {
  if (!bpe_.joins(text[i - 1], text[i])) return false;
  return text[i] < 0xC0 || i < 2 || i + 1 >= size || bpe_.joins_around(text + i);
}

void WordEncoder::encode(const std::uint8_t* text, std::size_t size, IdBuffer& out) {
  PreTokenizer words(text, size);
  std::size_t ends[kBatch], pieces[kGroup];
  std::size_t count = 0, start = 0, grouped = 0;
  const auto flush = [&] {
    if (count > 0) {
      group(text, size, grouped, pieces, count, out);
      grouped = pieces[count - 1];
    }
    count = 0;
  };
  const auto put = [&](std::size_t end) {
    pieces[count++] = end;
    if (count == kGroup) flush();
  };
  while (const std::size_t found = words.next(ends, std::size(ends))) {
    for (std::size_t w = 0; w < found; start = ends[w++]) {
      // What is too long for a key, and East Asian text, in which words are seldom seen twice, is cut up at once.
      const bool cut = ends[w] - start > kMaxKey || text[start] >= kFirstLeadOfCjk;
      for (std::size_t i = start + 1; cut && i < ends[w]; i += step(text[i])) {
        if (joined(text, size, i)) continue;
        put(i);
        if (ends[w] - i > kLoad && text[i] == text[i - 1]) {
          flush();
          i = grouped = repeat(text, i, ends[w], out);
        }
      }
      put(ends[w]);
    }
  }
  flush();
}

// The byte at `at` is not joined with another of its kind: the run of it up to `end`, without its last one, is that
// many times its own id. Returns where the last one begins.
std::size_t WordEncoder::repeat(const std::uint8_t* text, std::size_t at, std::size_t end, IdBuffer& out) const {
  std::size_t last = at;
  while (last + 1 < end && text[last + 1] == text[at]) ++last;
  std::fill_n(out.reserve(last - at), last - at, static_cast<std::int32_t>(bpe_.byte_id(text[at])));
  out.commit(last - at);
  return last;
}

// A few words at a time: first all keys, and the cache lines are asked for, then all look-ups, so that the lines arrive
// while other words are worked on.
void WordEncoder::group(const std::uint8_t* text, std::size_t size, std::size_t start, const std::size_t* ends,
                        std::size_t count, IdBuffer& out) {
  // Here and not in insert(), because below are pointers to lines.
  if (bits_ < kLastBits && inserted_ > std::size_t{1} << bits_) grow();
  Key keys[kGroup];
  const Entry* lines[kGroup];
  std::size_t from = start;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t length = ends[i] - from;
    // A word that cannot be looked up here gets a key that no entry has.
    keys[i] = length <= kMaxKey && size - from >= kLoad ? key_of(text + from, length) : Key{1, 0};
    lines[i] = line(keys[i]);
    __builtin_prefetch(lines[i]);
    from = ends[i];
  }
  // Room for every word as a look-up writes it: 16 ids at a time, however many count.
  std::int32_t* to = out.reserve(kLoad * (count + 1));
  const std::int32_t* committed = to;
  for (std::size_t i = 0; i < count; start = ends[i++]) {
    const Entry* e = lines[i];
    const auto is = [&key = keys[i]](const Entry& entry) { return entry.low == key.low && entry.high == key.high; };
    if (is(e[0]) || is(*++e)) {
      if (e->count <= kInline) {
        static_assert(offsetof(Entry, count) == offsetof(Entry, ids) + kInline * sizeof(std::int32_t));
        std::memcpy(to, e->ids, (kInline + 1) * sizeof(std::int32_t));
      } else {
        std::memcpy(to, pool_.data() + e->ids[0], kLoad * sizeof(std::int32_t));
      }
      to += e->count;
      continue;
    }
    out.commit(static_cast<std::size_t>(to - committed));
    rare(text + start, ends[i] - start, size - start, out);
    committed = to = out.reserve(kLoad * (count - i));
  }
  out.commit(static_cast<std::size_t>(to - committed));
}

// A word that is too long for a key, at the end of the text, or not in the cache.
void WordEncoder::rare(const std::uint8_t* word, std::size_t size, std::size_t readable, IdBuffer& out) {
  if (size > kMaxKey) {
    bpe_.encode_word(word, size, scratch_, out);
    return;
  }
  std::uint8_t padded[kLoad] = {};
  if (readable < kLoad) std::memcpy(padded, word, size);
  const Key key = key_of(readable < kLoad ? padded : word, size);
  if (const Entry* e = find(key)) {
    std::memcpy(out.reserve(e->count), ids_of(*e), e->count * sizeof(std::int32_t));
    out.commit(e->count);
    return;
  }
  const std::size_t before = out.size();
  bpe_.encode_word(word, size, scratch_, out);
  insert(key, out.data() + before, out.size() - before);
}

}  // namespace gpt2::tokenizer
