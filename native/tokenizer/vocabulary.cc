#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <initializer_list>

#include "base/errors.h"
#include "tokenizer/byte_symbols.h"
#include "tokenizer/utf8.h"

namespace gpt2::tokenizer {
namespace {

constexpr std::uint32_t kNone = 0xFFFFFFFFu;

[[noreturn]] void fail(const std::string& what, const std::string& got, const std::string& expected,
                       const std::string& hint = {}) {
  throw Error(ErrorKind::kTokenizer, what, got, expected, hint);
}

// A symbol as messages show it: shortened, so that a hostile entry does not fill the screen.
std::string shown(std::string_view symbol) {
  constexpr std::size_t kMost = 60;
  std::size_t length = std::min(symbol.size(), kMost);
  while (length > 0 && length < symbol.size() && (static_cast<unsigned char>(symbol[length]) & 0xC0) == 0x80) --length;
  return "\"" + std::string(symbol.substr(0, length)) + (length < symbol.size() ? "...\"" : "\"");
}

// Symbols to ids: open addressing; a slot holds the upper half of the hash and the id, so that nearly every comparison
// of strings is of equal ones.
class SymbolIndex {
 public:
  explicit SymbolIndex(std::size_t count) {
    std::size_t size = 16;
    while (size < 2 * count) size *= 2;
    slots_.assign(size, kFree);
    by_id_.resize(count);
  }

  // Returns the id that has this symbol already, kNone otherwise.
  std::uint32_t insert(std::string_view symbol, std::uint32_t id) {
    by_id_[id] = symbol;
    std::uint64_t& slot = slots_[find_slot(hash({symbol}), symbol, {})];
    if (slot != kFree) return static_cast<std::uint32_t>(slot);
    slot = (hash({symbol}) & kUpper) | id;
    return kNone;
  }

  // The id of first + second.
  std::uint32_t find(std::string_view first, std::string_view second = {}) const {
    return static_cast<std::uint32_t>(slots_[find_slot(hash({first, second}), first, second)]);
  }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0}, kUpper = ~std::uint64_t{0} << 32;

  std::size_t find_slot(std::uint64_t h, std::string_view first, std::string_view second) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = h & mask;; i = (i + 1) & mask) {
      if (slots_[i] == kFree) return i;
      if (((slots_[i] ^ h) & kUpper) != 0) continue;
      const std::string_view have = by_id_[static_cast<std::uint32_t>(slots_[i])];
      if (have.size() == first.size() + second.size() && have.starts_with(first) && have.ends_with(second)) return i;
    }
  }

  // FNV-1a, which takes the parts of a string one after the other, with a final mix.
  static std::uint64_t hash(std::initializer_list<std::string_view> parts) {
    std::uint64_t h = 0xCBF29CE484222325u;
    for (const std::string_view part : parts) {
      for (const char c : part) h = (h ^ static_cast<std::uint8_t>(c)) * 0x100000001B3u;
    }
    h = (h ^ (h >> 32)) * 0x9FB21C651E98DF25u;
    return h ^ (h >> 29);
  }

  std::vector<std::uint64_t> slots_;
  std::vector<std::string_view> by_id_;
};

// The bytes that a symbol spells, or false where it has a character that is no byte symbol.
bool spell(std::string_view symbol, std::string& out) {
  out.clear();
  const auto* p = reinterpret_cast<const std::uint8_t*>(symbol.data());
  for (const std::uint8_t* end = p + symbol.size(); p < end;) {
    const Utf8Char c = decode_utf8(p, end);
    const int byte = kByteSymbols.byte(c.code);
    if (byte < 0) return false;
    out += static_cast<char>(byte);
    p += c.length;
  }
  return true;
}

bool is_ascii(std::string_view s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The entries in order of their ids, each id once.
std::vector<const RawVocabulary::Entry*> in_order(const RawVocabulary& raw, SymbolIndex& index) {
  const std::size_t n = raw.entries.size();
  std::vector<const RawVocabulary::Entry*> by_id(n, nullptr);
  const auto of = [&raw](const RawVocabulary::Entry& e) { return raw.vocab_source + ": id of " + shown(e.symbol); };
  for (const auto& e : raw.entries) {
    if (e.id < 0 || static_cast<std::uint64_t>(e.id) >= n) {
      fail(of(e), std::to_string(e.id),
           "0 to " + std::to_string(n - 1) + ", since there are " + std::to_string(n) + " entries and no gaps");
    }
    auto& slot = by_id[static_cast<std::size_t>(e.id)];
    if (slot != nullptr) {
      fail(of(e), std::to_string(e.id) + ", which " + shown(slot->symbol) + " has already", "one id for each token");
    }
    slot = &e;
    const std::uint32_t other = index.insert(e.symbol, static_cast<std::uint32_t>(e.id));
    if (other != kNone) {
      fail(raw.vocab_source + ": token " + shown(e.symbol),
           "two ids, " + std::to_string(other) + " and " + std::to_string(e.id), "one id for each token");
    }
  }
  return by_id;
}

void add_merges(const RawVocabulary& raw, const SymbolIndex& index, Vocabulary& out, std::vector<bool>& made) {
  for (const auto& m : raw.merges) {
    const std::uint32_t left = index.find(m.left), right = index.find(m.right), whole = index.find(m.left, m.right);
    if (left == kNone || right == kNone || whole == kNone) {
      std::string missing(left == kNone ? m.left : right == kNone ? m.right : m.left);
      if (left != kNone && right != kNone) missing += m.right;
      fail(raw.merges_source + ": " + raw.merge_unit + " " + std::to_string(m.line),
           "a merge of " + shown(m.left) + " and " + shown(m.right) + " while " + shown(missing) + " is no token",
           "tokens of " + raw.vocab_source, "the two files of one vocabulary");
    }
    out.append_merge({left, right, whole});
    made[whole] = true;
  }
}

}  // namespace

bool Vocabulary::is_special(std::uint32_t id) const {
  return std::binary_search(specials_.begin(), specials_.end(), id);
}

void Vocabulary::reserve(std::size_t tokens, std::size_t merges) {
  bytes_.reserve(8 * tokens);
  ends_.reserve(tokens + 1);
  merges_.reserve(merges);
}

void Vocabulary::append_token(std::string_view bytes) {
  bytes_ += bytes;
  ends_.push_back(static_cast<std::uint32_t>(bytes_.size()));
}

std::string Vocabulary::symbol(std::uint32_t id) const {
  if (is_special(id)) return std::string(token(id));
  std::string out;
  for (const char c : token(id)) append_utf8(kByteSymbols.symbol[static_cast<std::uint8_t>(c)], out);
  return out;
}

std::string Vocabulary::canonical() const {
  std::string out;
  const auto put = [&out](std::uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift);
  };
  put(size());
  for (std::uint32_t id = 0; id < size(); ++id) {
    put(static_cast<std::uint32_t>(token(id).size()));
    out += token(id);
  }
  put(static_cast<std::uint32_t>(merges_.size()));
  for (const Merge& m : merges_) {
    put(m.left);
    put(m.right);
  }
  for (const std::uint32_t id : specials_) put(id);
  return out;
}

Vocabulary make_vocabulary(const RawVocabulary& raw) {
  const std::size_t n = raw.entries.size();
  if (n == 0 || n > kMaxTokens || raw.merges.size() >= kMaxMerges) {
    fail(raw.vocab_source + ": size",
         std::to_string(n) + " tokens and " + std::to_string(raw.merges.size()) + " merges",
         "256 to " + std::to_string(kMaxTokens) + " tokens and less than " + std::to_string(kMaxMerges) + " merges");
  }
  SymbolIndex index(n);
  const auto by_id = in_order(raw, index);
  Vocabulary out;
  out.reserve(n, raw.merges.size());
  std::vector<bool> made(n, false);
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string symbol;
    append_utf8(kByteSymbols.symbol[byte], symbol);
    const std::uint32_t id = index.find(symbol);
    if (id == kNone) {
      fail(raw.vocab_source + ": the token of byte " + std::to_string(byte), "none", "an entry " + shown(symbol),
           "a byte-level vocabulary, which has all 256 bytes and so can write every text");
    }
    out.set_byte(static_cast<std::uint8_t>(byte), id);
    made[id] = true;
  }
  add_merges(raw, index, out, made);
  std::string bytes;
  for (std::uint32_t id = 0; id < n; ++id) {
    const RawVocabulary::Entry& e = *by_id[id];
    const bool spelled = spell(e.symbol, bytes);
    if (e.symbol.empty())
      fail(raw.vocab_source + ": id " + std::to_string(id), "an empty token", "at least one character");
    if (made[id] && (!spelled || (e.special && !is_ascii(e.symbol)))) {
      fail(raw.vocab_source + ": token " + shown(e.symbol), "a special token, or one of no bytes, that a merge makes",
           "byte symbols");
    }
    const bool ordinary = made[id] || (!e.special && spelled && !is_ascii(e.symbol));
    out.append_token(ordinary ? bytes : e.symbol);
    if (!ordinary || e.special) out.append_special(id);
  }
  return out;
}

}  // namespace gpt2::tokenizer
