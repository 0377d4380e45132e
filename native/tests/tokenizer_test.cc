// The tokenizer as C++ sees it: each fast road against its plain twin, the readers and writers, and the stream. What is
// compared with other tokenizers is in tests/tokenizer.
#include "tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "base/errors.h"
#include "tokenizer/byte_symbols.h"
#include "tokenizer/formats.h"
#include "tokenizer/json.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/trainer.h"
#include "tokenizer/word_encoder.h"

using namespace gpt2::tokenizer;

namespace {

const std::uint8_t* bytes_of(const std::string& s) { return reinterpret_cast<const std::uint8_t*>(s.data()); }

std::vector<std::int32_t> list(const IdBuffer& ids) { return {ids.data(), ids.data() + ids.size()}; }

// Text of the kinds that have borders everywhere: classes, contractions, white space, UTF-8 of all lengths, broken
// bytes.
std::string hard_text(std::mt19937& random, std::size_t pieces) {
  static const std::vector<std::string> kPieces = {"a",
                                                   "the",
                                                   "Zebra",
                                                   "0",
                                                   "2024",
                                                   " ",
                                                   "  ",
                                                   "\n",
                                                   "\t",
                                                   "\r\n",
                                                   "'",
                                                   "'s",
                                                   "'re",
                                                   "'ve",
                                                   "'ll",
                                                   "'d",
                                                   "'r",
                                                   "'l",
                                                   "!",
                                                   "...",
                                                   "_",
                                                   "\xc3\xa9",
                                                   "\xc2\xa0",
                                                   "\xe2\x80\x83",
                                                   "\xe4\xb8\xad",
                                                   "\xe6\x96\x87",
                                                   "\xe3\x80\x80",
                                                   "\xf0\x9f\x98\x80",
                                                   "\xcc\x81",
                                                   "\xc2\xb2",
                                                   "\xff",
                                                   "\x80",
                                                   "\xe4\xb8",
                                                   "\xf0\x9f",
                                                   std::string(1, '\0'),
                                                   std::string(70, 'q'),
                                                   std::string(20, ' '),
                                                   std::string(40, '=')};
  std::string out;
  for (std::size_t i = 0; i < pieces; ++i) out += kPieces[random() % kPieces.size()];
  return out;
}

Vocabulary learnt(std::size_t size, const std::vector<std::string>& specials = {"<|endoftext|>"}) {
  std::mt19937 random(1);
  WordCounts counts(100000);
  counts.feed(hard_text(random, 20000));
  counts.feed(std::string(3000, 'q') +
              " the zebras, the zebra's and the \xe4\xb8\xad\xe6\x96\x87\xe4\xb8\xad\xe6\x96\x87");
  counts.end_document();
  return train(counts, {size, specials, 0});
}

std::string message(const std::string& vocab, const std::string& merges) {
  try {
    read_vocab_and_merges(vocab, merges, "vocab.json", "merges.txt");
  } catch (const gpt2::Error& e) {
    CHECK(e.kind() == gpt2::ErrorKind::kTokenizer);
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("blocks of 64 bytes cut where the plain rule does") {
  std::mt19937 random(2);
  const CharClasses& classes = CharClasses::get();
  for (int round = 0; round < 3000; ++round) {
    const std::string text = hard_text(random, random() % 60);
    // A copy of exactly the text's size, so that a sanitizer sees a read beyond it.
    const std::vector<std::uint8_t> exact(text.begin(), text.end());
    const std::uint8_t* const begin = exact.data();
    const std::uint8_t* const end = begin + exact.size();
    std::vector<std::size_t> plain, fast;
    for (const std::uint8_t* p = begin; p < end;) {
      p = pretoken_end(p, end, classes);
      plain.push_back(static_cast<std::size_t>(p - begin));
    }
    PreTokenizer words(begin, exact.size());
    std::size_t ends[200];
    const std::size_t capacity = 1 + random() % 200;
    while (const std::size_t found = words.next(ends, capacity)) fast.insert(fast.end(), ends, ends + found);
    CAPTURE(text);
    CHECK(fast == plain);
  }
}

TEST_CASE("the contractions and the white space of GPT-2's expression") {
  const auto cut = [](const std::string& text) {
    PreTokenizer words(bytes_of(text), text.size());
    std::vector<std::string> out;
    std::size_t ends[100], start = 0;
    const std::size_t found = words.next(ends, 100);
    for (std::size_t i = 0; i < found; ++i) {
      out.push_back(text.substr(start, ends[i] - start));
      start = ends[i];
    }
    return out;
  };
  using Words = std::vector<std::string>;
  CHECK(cut("I'll we've he'd 'S") == Words{"I", "'ll", " we", "'ve", " he", "'d", " '", "S"});
  CHECK(cut("a  b   c \n d") == Words{"a", " ", " b", "  ", " c", " \n", " d"});
  CHECK(cut("x\n\n") == Words{"x", "\n\n"});
  CHECK(cut("''s 1a!") == Words{"''", "s", " 1", "a", "!"});
  CHECK(cut(" ") == Words{" "});
  CHECK(cut("").empty());
}

TEST_CASE("the three roads of BPE give one answer") {
  const Vocabulary vocabulary = learnt(600);
  const Bpe bpe(vocabulary);
  std::mt19937 random(3);
  BpeScratch scratch;
  for (int round = 0; round < 5000; ++round) {
    std::string word = hard_text(random, 12).substr(0, 1 + random() % Bpe::kShort);
    if (word.empty()) continue;
    if (round % 3 == 0) word.assign(word.size(), 'q');
    IdBuffer plain, fast, tiny;
    bpe.short_word(bytes_of(word), word.size(), plain);
    bpe.long_word(bytes_of(word), word.size(), scratch, fast);
    CAPTURE(word);
    CHECK(list(fast) == list(plain));
    if (word.size() <= Bpe::kTiny) {
      bpe.tiny_word(bytes_of(word), word.size(), tiny);
      CHECK(list(tiny) == list(plain));
    }
  }
}

TEST_CASE("neither the cache nor cutting a word up changes an id") {
  const Vocabulary vocabulary = learnt(600);
  const Bpe bpe(vocabulary);
  WordEncoder encoder(bpe);
  std::mt19937 random(4);
  for (int round = 0; round < 1500; ++round) {
    const std::string text = hard_text(random, random() % 80);
    const std::vector<std::uint8_t> exact(text.begin(), text.end());
    IdBuffer plain, fast;
    BpeScratch scratch;
    PreTokenizer words(exact.data(), exact.size());
    std::size_t end = 0, start = 0;
    for (; words.next(&end, 1) == 1; start = end) bpe.encode_word(exact.data() + start, end - start, scratch, plain);
    encoder.encode(exact.data(), exact.size(), fast);
    CAPTURE(text);
    CHECK(list(fast) == list(plain));
  }
}

TEST_CASE("what the cache holds of more ids than fit is replaced when it is full") {
  const Vocabulary vocabulary = learnt(256, {});  // no merges: a word of n bytes is n ids
  const Bpe bpe(vocabulary);
  WordEncoder encoder(bpe);
  std::mt19937 random(5);
  std::string text;
  for (int word = 0; word < 60000; ++word) {
    text += ' ';
    for (int i = 0; i < 8; ++i) text += static_cast<char>('a' + random() % 26);
  }
  for (int round = 0; round < 2; ++round) {
    IdBuffer ids;
    encoder.encode(bytes_of(text), text.size(), ids);
    REQUIRE(ids.size() == text.size());
    bool equal = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
      equal = equal && ids[i] == static_cast<std::int32_t>(vocabulary.byte_id(static_cast<std::uint8_t>(text[i])));
    }
    CHECK(equal);
  }
}

TEST_CASE("encode, batch and decode are lossless and agree") {
  const Tokenizer tokenizer(learnt(600));
  std::mt19937 random(6);
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) texts.push_back(hard_text(random, random() % 200));
  texts.push_back(hard_text(random, 400000));  // long enough to be cut up
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::vector<IdBuffer> batch = tokenizer.encode_batch(views, {}, 3);
  const std::vector<std::uint32_t>& specials = tokenizer.vocabulary().specials();
  const std::vector<IdBuffer> allowed = tokenizer.encode_batch(views, specials, 2);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    IdBuffer ids;
    tokenizer.encode(texts[i], {}, ids);
    CHECK(list(ids) == list(batch[i]));
    CHECK(list(ids) == list(allowed[i]));  // there is no special token in them
    CHECK(tokenizer.decode(ids.data(), ids.size()) == texts[i]);
  }
}

TEST_CASE("ids outside the vocabulary, and specials that are none") {
  const Tokenizer tokenizer(learnt(300));
  const std::int64_t ids[] = {1, 2, 300};
  CHECK_THROWS_WITH_AS(tokenizer.decode(ids, 3), doctest::Contains("position 2"), gpt2::Error);
  const std::uint32_t ordinary[] = {7};
  IdBuffer out;
  CHECK_THROWS_WITH_AS(tokenizer.encode("x", ordinary, out), doctest::Contains("allowed_special"), gpt2::Error);
}

TEST_CASE("what is written is read as the same") {
  const Vocabulary vocabulary = learnt(700, {"<|endoftext|>", "<pad>"});
  for (const bool ascii : {false, true}) {
    const Vocabulary again = read_vocab_and_merges(write_vocab_json(vocabulary, ascii), write_merges(vocabulary),
                                                   "vocab.json", "merges.txt");
    CHECK(again.canonical() == vocabulary.canonical());
  }
  CHECK(read_tokenizer_json(write_tokenizer_json(vocabulary), "tokenizer.json").canonical() == vocabulary.canonical());
}

TEST_CASE("errors name the source and the place") {
  const Vocabulary vocabulary = learnt(300);
  const std::string vocab = write_vocab_json(vocabulary, false), merges = write_merges(vocabulary);
  CHECK(message(vocab, merges).empty());
  CHECK(message("{\n\"a\": }", merges).find("vocab.json: line 2") == 0);
  CHECK(message(vocab, merges + "x\n").find("merges.txt: line 45") == 0);
  CHECK(message(vocab.substr(0, 500), merges).find("end of the file") != std::string::npos);
  CHECK(message("{}", "").find("0 tokens") != std::string::npos);
}

TEST_CASE("every prefix of a vocabulary file is an error, and nothing worse") {
  const Vocabulary vocabulary = learnt(260);
  const std::string json = write_tokenizer_json(vocabulary);
  for (std::size_t size = 0; size + 2 < json.size(); size += 1 + size / 64) {
    const std::vector<char> exact(json.begin(), json.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_THROWS_AS(read_tokenizer_json({exact.data(), exact.size()}, "tokenizer.json"), gpt2::Error);
  }
}

TEST_CASE("the prefix that is whole characters, wherever the first other byte stands") {
  const auto prefix = [](const std::string& text) {
    const std::vector<std::uint8_t> exact(text.begin(), text.end());  // so that a read beyond it is seen
    return utf8_prefix(exact.data(), exact.size());
  };
  const std::string characters[] = {"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
  for (std::size_t before = 0; before < 20; ++before) {
    for (const std::string& c : characters) {
      const std::string text = std::string(before, 'x') + c;
      CHECK(prefix(text + c + "yyyyyyyyyyyyyyyyyyyy") == text.size() + c.size() + 20);
      for (std::size_t cut = 1; cut < c.size(); ++cut) CHECK(prefix(text + c.substr(0, cut)) == text.size());
      for (const char* wrong : {"\x80", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x91\x92\x93", "\xFF"}) {
        CHECK(prefix(text + wrong + "abcdefghijk") == text.size());
      }
    }
  }
}

TEST_CASE("a stream of bytes in any pieces is the text, replacement characters as Unicode recommends") {
  const auto stream = [](const std::string& bytes, std::size_t piece) {
    Utf8Stream utf8;
    std::string out;
    for (std::size_t at = 0; at < bytes.size(); at += piece) out += utf8.push(bytes.substr(at, piece));
    return out + utf8.finish();
  };
  const std::string r = "\xEF\xBF\xBD";
  // Unicode 15.0, table 3-8 and the text around it.
  CHECK(stream("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", 1) ==
        "a" + r + r + r + "b" + r + "c" + r + r + "d");
  CHECK(stream("\xE0\x80\x80", 1) == r + r + r);
  CHECK(stream("\xED\xA0\x80", 2) == r + r + r);
  CHECK(stream("\xF4\x91\x92\x93", 1) == r + r + r + r);
  CHECK(stream("\xF0\x9F\x98", 1) == r);
  CHECK(stream("\xF0\x9F\x98\x80", 1) == "\xF0\x9F\x98\x80");
}

TEST_CASE("the order of the byte symbols is that of GPT-2's first 256 ids") {
  CHECK(kByteSymbols.by_rank[0] == '!');
  CHECK(kByteSymbols.by_rank[93] == '~');
  CHECK(kByteSymbols.by_rank[94] == 0xA1);
  CHECK(kByteSymbols.by_rank[187] == 0xFF);
  CHECK(kByteSymbols.by_rank[188] == 0x00);
  CHECK(kByteSymbols.by_rank[255] == 0xAD);
  CHECK(kByteSymbols.symbol[' '] == 0x120);
}
