// The readers of vocabulary files, on valid files with edits anywhere: an Error or a valid vocabulary, nothing else,
// and a vocabulary that was read is written and read again as the same.
//
// The input is a list of edits, not a file: so almost every input gets past the first brace (structure-aware fuzzing).
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/errors.h"
#include "tokenizer/formats.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/trainer.h"

using namespace gpt2::tokenizer;

namespace {

Vocabulary small_vocabulary() {
  WordCounts counts(1000);
  counts.feed("the cat and the hat, the \"quoted\" bat\\ and \xc3\xa9t\xc3\xa9\n");
  counts.end_document();
  return train(counts, {280, {"<|endoftext|>"}, 0});
}

// Edits of 4 bytes and a payload: where (16 bits, scaled to the file), what (2 bits), and how many bytes.
std::string edited(std::string file, const std::uint8_t*& at, const std::uint8_t* end, std::size_t edits) {
  while (edits-- > 0 && end - at >= 4 && !file.empty()) {
    const std::size_t place = (at[0] | std::size_t{at[1]} << 8) * file.size() >> 16;
    const std::size_t length = at[3] % 16;
    const int what = at[2] % 4;
    at += 4;
    const std::size_t have = std::min(length, static_cast<std::size_t>(end - at));
    const std::string payload(reinterpret_cast<const char*>(at), have);
    if (what == 0) file.erase(place, length + 1);
    if (what == 1) file.insert(place, payload);
    if (what == 2) file.replace(place, have, payload);
    if (what == 3) file.insert(place, file.substr(file.size() * length / 16, 40));  // repeat a piece of itself
    if (what == 1 || what == 2) at += have;
  }
  return file;
}

void check_valid(const Vocabulary& v) {
  const std::string json = write_vocab_json(v, false), merges = write_merges(v);
  if (v.specials().empty()) {
    const Vocabulary again = read_vocab_and_merges(json, merges, "vocab.json", "merges.txt");
    if (again.size() != v.size() || again.merges().size() != v.merges().size()) std::abort();
  }
  const Vocabulary whole = read_tokenizer_json(write_tokenizer_json(v), "tokenizer.json");
  if (whole.canonical() != v.canonical()) std::abort();
  const Tokenizer tokenizer(whole);
  IdBuffer ids;
  const std::string text = "the cat \xff\xc3\xa9 and\n";
  tokenizer.encode(text, {}, ids);
  if (tokenizer.decode(ids.data(), ids.size()) != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Vocabulary vocabulary = small_vocabulary();
  static const std::string vocab_json = write_vocab_json(vocabulary, false), merges = write_merges(vocabulary),
                           tokenizer_json = write_tokenizer_json(vocabulary);
  if (size == 0) return 0;
  const std::uint8_t* at = data + 1;
  const std::uint8_t* end = data + size;
  try {
    if (data[0] % 2 == 0) {
      const std::string v = edited(vocab_json, at, end, data[0] / 2 % 8), m = edited(merges, at, end, 100);
      check_valid(read_vocab_and_merges(v, m, "vocab.json", "merges.txt"));
    } else {
      check_valid(read_tokenizer_json(edited(tokenizer_json, at, end, 100), "tokenizer.json"));
    }
  } catch (const gpt2::Error&) {
    return 0;  // what a broken file must end in
  }
  return 0;
}
