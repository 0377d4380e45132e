// For every vocabulary that can be learnt and every text: decode(encode(text)) == text, and the streamed text is whole.
//
// The input is two texts, separated by its first byte's worth of a length: the vocabulary is learnt from the first, the
// second is encoded with it.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/trainer.h"

using namespace gpt2::tokenizer;

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

Vocabulary learn(std::string_view corpus) {
  WordCounts counts(1000);
  counts.feed(corpus);
  counts.end_document();
  return train(counts, {400, {"<|endoftext|>"}, 0});
}

// Streamed in one-byte pieces and in tokens: the same text, never the beginning of a character alone.
void check_stream(const Tokenizer& tokenizer, const IdBuffer& ids, std::string_view text) {
  Utf8Stream by_token, by_byte;
  std::string tokens, bytes;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    tokens += by_token.push(tokenizer.vocabulary().token(static_cast<std::uint32_t>(ids[i])));
  }
  for (char byte : text) bytes += by_byte.push(std::string_view(&byte, 1));
  check(tokens + by_token.finish() == bytes + by_byte.finish());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string_view corpus = input.substr(0, data[0]);
  const std::string_view text = input.substr(corpus.size());
  const Tokenizer tokenizer(learn(corpus));
  IdBuffer ids;
  tokenizer.encode(text, {}, ids);
  check(tokenizer.decode(ids.data(), ids.size()) == text);
  check_stream(tokenizer, ids, text);
  IdBuffer with_special;
  tokenizer.encode(text, tokenizer.vocabulary().specials(), with_special);
  check(tokenizer.decode(with_special.data(), with_special.size()) == text);
  return 0;
}
