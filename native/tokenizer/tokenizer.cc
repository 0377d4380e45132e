#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <exception>

#include "base/errors.h"
#include "base/thread_pool.h"
#include "tokenizer/word_encoder.h"

namespace gpt2::tokenizer {

// An encoder that goes back when the call is over, so that the next call finds its cache warm.
class Tokenizer::Lease {
 public:
  explicit Lease(const Tokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard<std::mutex> lock(owner.mutex_);
      if (!owner.idle_.empty()) {
        context_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    if (!context_) context_ = std::make_unique<WordEncoder>(owner.bpe_);
  }
  ~Lease() {
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    if (owner_.idle_.size() < owner_.idle_.capacity()) owner_.idle_.push_back(std::move(context_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  WordEncoder& operator*() const { return *context_; }

 private:
  const Tokenizer& owner_;
  std::unique_ptr<WordEncoder> context_;
};

namespace {

// Finds the allowed special tokens in a text, from left to right, each text position at most once per token.
class SpecialFinder {
 public:
  SpecialFinder(const Vocabulary& vocabulary, std::string_view text, std::span<const std::uint32_t> allowed)
      : vocabulary_(vocabulary), text_(text) {
    for (const std::uint32_t id : allowed) {
      if (!vocabulary.is_special(id)) {
        throw Error(ErrorKind::kInvalidRequest, "allowed_special", "id " + std::to_string(id),
                    "the id of a special token");
      }
      found_.push_back({id, text.find(vocabulary.token(id))});
    }
  }

  // The first special token at or after `from`; false where there is none.
  bool next(std::size_t from, std::size_t& at, std::uint32_t& id) {
    at = std::string_view::npos;
    for (Found& f : found_) {
      if (f.at < from) f.at = text_.find(vocabulary_.token(f.id), from);
      if (f.at == std::string_view::npos) continue;
      if (f.at < at || (f.at == at && vocabulary_.token(f.id).size() > vocabulary_.token(id).size())) {
        at = f.at;
        id = f.id;
      }
    }
    return at != std::string_view::npos;
  }

 private:
  struct Found {
    std::uint32_t id;
    std::size_t at;
  };
  const Vocabulary& vocabulary_;
  std::string_view text_;
  std::vector<Found> found_;
};

template <typename Id>
std::string decode_ids(const Vocabulary& vocabulary, const Id* ids, std::size_t count, bool skip_special) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= vocabulary.size()) {
      throw Error(ErrorKind::kInvalidRequest, "token id at position " + std::to_string(i), std::to_string(ids[i]),
                  "0 to " + std::to_string(vocabulary.size() - 1) + ", the ids of this vocabulary");
    }
    const auto id = static_cast<std::uint32_t>(ids[i]);
    if (skip_special && vocabulary.is_special(id)) continue;
    out += vocabulary.token(id);
  }
  return out;
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)), bpe_(vocabulary_) {
  // Reserved, so that giving a context back allocates nothing and cannot throw. More than these are not kept.
  idle_.reserve(64);
}

Tokenizer::~Tokenizer() = default;

namespace {

void encode_plain(std::string_view text, WordEncoder& encoder, IdBuffer& out) {
  encoder.encode(reinterpret_cast<const std::uint8_t*>(text.data()), text.size(), out);
}

}  // namespace

void Tokenizer::encode(std::string_view text, std::span<const std::uint32_t> allowed, IdBuffer& out) const {
  const Lease context(*this);
  SpecialFinder specials(vocabulary_, text, allowed);
  std::size_t from = 0, at = 0;
  std::uint32_t id = 0;
  while (!allowed.empty() && specials.next(from, at, id)) {
    encode_plain(text.substr(from, at - from), *context, out);
    out.push_back(static_cast<std::int32_t>(id));
    from = at + vocabulary_.token(id).size();
  }
  encode_plain(text.substr(from), *context, out);
}

namespace {

// A part of a text of a batch that one thread encodes.
struct Piece {
  std::size_t text;
  std::string_view bytes;
};

// Large enough that the work outweighs handing it over, small enough that threads end together.
constexpr std::size_t kPiece = std::size_t{1} << 17;

// The first place that is found at or after `from` where a text may be cut without changing its pre-tokens: a blank
// between two ASCII characters that are no white space begins one whatever is around it. The end where none is found;
// only a little of each piece is searched, so that a text without such places costs no time.
std::size_t safe_cut(std::string_view text, std::size_t from) {
  constexpr std::size_t kSearched = 4096;
  const auto visible = [](char c) { return c > ' ' && c < 0x7F; };
  for (; from < text.size(); from += kPiece) {
    for (std::size_t i = from; i + 1 < std::min(text.size(), from + kSearched); ++i) {
      if (text[i] == ' ' && visible(text[i - 1]) && visible(text[i + 1])) return i;
    }
  }
  return text.size();
}

std::vector<Piece> cut_up(std::span<const std::string_view> texts, bool whole) {
  std::vector<Piece> pieces;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    std::string_view rest = texts[t];
    while (!whole && rest.size() > 2 * kPiece) {
      const std::size_t at = safe_cut(rest, kPiece);
      if (at == rest.size()) break;
      pieces.push_back({t, rest.substr(0, at)});
      rest.remove_prefix(at);
    }
    pieces.push_back({t, rest});
  }
  return pieces;
}

}  // namespace

std::vector<IdBuffer> Tokenizer::encode_batch(std::span<const std::string_view> texts,
                                              std::span<const std::uint32_t> allowed, int threads) const {
  // A special token may span a cut, so texts in which some are allowed stay whole.
  const std::vector<Piece> pieces = cut_up(texts, threads == 1 || !allowed.empty());
  std::vector<IdBuffer> parts(pieces.size());
  std::mutex fault_mutex;
  std::exception_ptr fault;
  ThreadPool pool(static_cast<int>(std::clamp<std::size_t>(static_cast<std::size_t>(std::max(threads, 0)), 1,
                                                           std::max<std::size_t>(pieces.size(), 1))));
  pool.run(pieces.size(), [&](std::size_t task, int) {
    try {
      encode(pieces[task].bytes, allowed, parts[task]);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(fault_mutex);
      fault = std::current_exception();
    }
  });
  if (fault) std::rethrow_exception(fault);
  std::vector<IdBuffer> out(texts.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    IdBuffer& whole = out[pieces[i].text];
    if (whole.size() == 0) {
      whole = std::move(parts[i]);
    } else {
      whole.append(parts[i]);
      parts[i] = IdBuffer();
    }
  }
  return out;
}

std::string Tokenizer::decode(const std::int64_t* ids, std::size_t count, bool skip_special) const {
  return decode_ids(vocabulary_, ids, count, skip_special);
}

std::string Tokenizer::decode(const std::int32_t* ids, std::size_t count, bool skip_special) const {
  return decode_ids(vocabulary_, ids, count, skip_special);
}

}  // namespace gpt2::tokenizer
