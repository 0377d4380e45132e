#include "tokenizer/formats.h"

#include <algorithm>
#include <unordered_map>

#include "base/errors.h"
#include "tokenizer/json.h"
#include "tokenizer/utf8.h"

namespace gpt2::tokenizer {
namespace {

using Kind = JsonReader::Kind;

void read_entries(JsonReader& json, RawVocabulary& raw) {
  std::string symbol;
  json.begin_object();
  while (json.next_member(symbol)) raw.entries.push_back({raw.keep(symbol), json.read_integer(), false});
}

// "left right" -> a merge. Returns false where it is not two symbols with one space between.
bool split_merge(std::string_view text, RawVocabulary::RawMerge& merge) {
  const std::size_t space = text.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == text.size()) return false;
  if (text.find(' ', space + 1) != std::string_view::npos) return false;
  merge.left = text.substr(0, space);
  merge.right = text.substr(space + 1);
  return true;
}

void read_merge_lines(std::string_view text, RawVocabulary& raw) {
  RawVocabulary::RawMerge merge;
  for (std::size_t at = 0, line = 1; at < text.size(); ++line) {
    const std::size_t stop = std::min(text.find('\n', at), text.size());
    std::string_view row = text.substr(at, stop - at);
    at = stop + 1;
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    if (line == 1 && row.starts_with("#version")) continue;
    if (row.empty() && at >= text.size()) break;
    merge.line = line;
    if (!split_merge(row, merge)) {
      throw Error(ErrorKind::kTokenizer, raw.merges_source + ": line " + std::to_string(line),
                  row.empty() ? "an empty line" : json_quote(row.substr(0, 60)), "two symbols with one blank between");
    }
    raw.merges.push_back(merge);
  }
}

void read_merge_list(JsonReader& json, RawVocabulary& raw) {
  RawVocabulary::RawMerge merge;
  std::string text;
  json.begin_array();
  while (json.next_item()) {
    merge.line = raw.merges.size();
    if (json.peek() == Kind::kArray) {
      std::size_t parts = 0;
      json.begin_array();
      while (json.next_item()) {
        json.read_string(text);
        (parts++ == 0 ? merge.left : merge.right) = raw.keep(text);
      }
      if (parts != 2 || merge.left.empty() || merge.right.empty()) {
        json.fail("model.merges[" + std::to_string(merge.line) + "]", std::to_string(parts) + " parts", "two symbols");
      }
    } else {
      json.read_string(text);
      if (!split_merge(raw.keep(text), merge)) {
        json.fail("model.merges[" + std::to_string(merge.line) + "]", json_quote(text.substr(0, 60)),
                  "two symbols with one blank between");
      }
    }
    raw.merges.push_back(merge);
  }
}

[[noreturn]] void unsupported(const std::string& source, const std::string& part, const std::string& got,
                              const std::string& expected) {
  throw Error(ErrorKind::kTokenizer, source + ": " + part, got.substr(0, 200), expected,
              "a tokenizer of GPT-2's kind; this one would give other ids");
}

// The members of a settings object as compact JSON text, in order.
std::vector<std::pair<std::string, std::string>> members(const std::string& object, const std::string& source) {
  std::vector<std::pair<std::string, std::string>> out;
  JsonReader json(object, source);
  std::string key;
  json.begin_object();
  while (json.next_member(key)) out.emplace_back(key, json.raw());
  return out;
}

std::string member(const std::vector<std::pair<std::string, std::string>>& object, std::string_view key) {
  for (const auto& [name, value] : object) {
    if (name == key) return value;
  }
  return "null";
}

// "ByteLevel" for {"type":"ByteLevel",...}, else the whole text.
std::string type_of(const std::string& value, const std::string& source) {
  if (value.empty() || value[0] != '{') return value;
  std::string type = member(members(value, source), "type");
  return type.size() > 2 && type[0] == '"' ? type.substr(1, type.size() - 2) : value;
}

// A Sequence of one part is that part.
std::string unwrap(const std::string& value, const std::string& list, const std::string& source) {
  if (type_of(value, source) != "Sequence") return value;
  const std::string parts = member(members(value, source), list);
  if (parts.empty() || parts[0] != '[') return value;
  JsonReader json(parts, source);
  std::vector<std::string> items;
  json.begin_array();
  while (json.next_item()) items.push_back(json.raw());
  if (items.empty()) return "null";
  return items.size() == 1 ? items[0] : value;
}

// A TemplateProcessing, as transformers writes for GPT-2, that gives back the one text and no more.
bool adds_nothing(const std::string& post_processor, const std::string& source) {
  if (type_of(post_processor, source) != "TemplateProcessing") return false;
  const std::string single = member(members(post_processor, source), "single");
  const std::size_t text = single.find("\"Sequence\":{");
  return text != std::string::npos && single.find("\"Sequence\":{", text + 1) == std::string::npos &&
         single.find("\"SpecialToken\":{") == std::string::npos;
}

struct Settings {
  std::string normalizer = "null", pre_tokenizer = "null", post_processor = "null", decoder = "null";
};

void check_settings(const Settings& s, const std::string& source) {
  const std::string normalizer = unwrap(s.normalizer, "normalizers", source);
  if (normalizer != "null") unsupported(source, "normalizer", type_of(normalizer, source), "none (null)");
  const std::string pre = unwrap(s.pre_tokenizer, "pretokenizers", source);
  if (type_of(pre, source) != "ByteLevel") unsupported(source, "pre_tokenizer", type_of(pre, source), "ByteLevel");
  const auto options = members(pre, source);
  if (member(options, "add_prefix_space") != "false") {
    unsupported(source, "pre_tokenizer.add_prefix_space", member(options, "add_prefix_space"), "false");
  }
  if (member(options, "use_regex") == "false") {
    unsupported(source, "pre_tokenizer.use_regex", "false", "true (GPT-2's regular expression)");
  }
  const std::string post = unwrap(s.post_processor, "processors", source);
  if (post != "null" && type_of(post, source) != "ByteLevel" && !adds_nothing(post, source)) {
    unsupported(source, "post_processor", type_of(post, source), "one that adds no token: ByteLevel or none");
  }
  const std::string decoder = unwrap(s.decoder, "decoders", source);
  if (type_of(decoder, source) != "ByteLevel") unsupported(source, "decoder", type_of(decoder, source), "ByteLevel");
}

void check_model_option(const std::string& source, const std::string& key, const std::string& value) {
  const auto allow = [&](std::initializer_list<std::string_view> good, const char* expected) {
    if (std::find(good.begin(), good.end(), value) == good.end()) unsupported(source, "model." + key, value, expected);
  };
  if (key == "type") allow({"\"BPE\""}, "BPE");
  if (key == "dropout") allow({"null", "0", "0.0"}, "none (null)");
  if (key == "continuing_subword_prefix" || key == "end_of_word_suffix") allow({"null", "\"\""}, "none (null)");
  if (key == "ignore_merges") allow({"null", "false"}, "false");
  // unk_token, fuse_unk and byte_fallback decide nothing where every byte has a token, which is checked.
}

void read_model(JsonReader& json, RawVocabulary& raw) {
  std::string key;
  bool vocab = false, merges = false;
  json.begin_object();
  while (json.next_member(key)) {
    if (key == "vocab" && json.peek() == Kind::kObject) {
      read_entries(json, raw);
      vocab = true;
    } else if (key == "merges") {
      read_merge_list(json, raw);
      merges = true;
    } else {
      // A vocabulary that is a list belongs to a model of another type; the type is what the message should name.
      const std::string value = json.raw();
      if (key != "vocab") check_model_option(raw.vocab_source, key, value);
    }
  }
  if (!vocab) unsupported(raw.vocab_source, "model.vocab", "none", "an object of tokens and ids");
  if (!merges) unsupported(raw.vocab_source, "model.merges", "none", "a list of pairs");
}

struct AddedToken {
  std::string content;
  std::int64_t id = 0;
};

std::vector<AddedToken> read_added(JsonReader& json, const std::string& source) {
  std::vector<AddedToken> out;
  std::string key;
  json.begin_array();
  while (json.next_item()) {
    AddedToken token;
    bool special = false;
    std::string changes;
    json.begin_object();
    while (json.next_member(key)) {
      if (key == "content") {
        json.read_string(token.content);
      } else if (key == "id") {
        token.id = json.read_integer();
      } else {
        const bool on = json.raw() == "true";
        if (key == "special") special = on;
        if (on && (key == "single_word" || key == "lstrip" || key == "rstrip")) changes = key;
      }
    }
    const std::string part = "added_tokens: " + json_quote(token.content.substr(0, 60));
    if (token.content.empty()) unsupported(source, part, "no content", "the token's text");
    if (!changes.empty()) unsupported(source, part + "." + changes, "true", "false");
    if (!special)
      unsupported(source, part + ".special", "false", "true (a token that is found only where it is allowed)");
    out.push_back(std::move(token));
  }
  return out;
}

void add_specials(const std::vector<AddedToken>& added, RawVocabulary& raw) {
  if (added.empty()) return;
  std::unordered_map<std::string_view, std::size_t> at;
  for (std::size_t i = 0; i < raw.entries.size(); ++i) at.emplace(raw.entries[i].symbol, i);
  for (const AddedToken& token : added) {
    const auto same = at.find(token.content);
    if (same == at.end()) {
      const std::string_view kept = raw.keep(token.content);
      at.emplace(kept, raw.entries.size());
      raw.entries.push_back({kept, token.id, true});
      continue;
    }
    RawVocabulary::Entry& entry = raw.entries[same->second];
    if (entry.id != token.id) {
      throw Error(ErrorKind::kTokenizer, raw.vocab_source + ": added token " + json_quote(token.content.substr(0, 60)),
                  "id " + std::to_string(token.id), std::to_string(entry.id) + ", as in the vocabulary");
    }
    entry.special = true;
  }
}

std::string ascii_only(const std::string& text) {
  std::string out;
  const auto* p = reinterpret_cast<const std::uint8_t*>(text.data());
  for (const std::uint8_t* end = p + text.size(); p < end;) {
    const Utf8Char c = decode_utf8(p, end);
    p += c.length;
    if (c.code < 0x80) {
      out += static_cast<char>(c.code);
      continue;
    }
    const auto put = [&out](std::uint32_t unit) {
      constexpr char kHex[] = "0123456789abcdef";
      out += "\\u";
      for (int shift = 12; shift >= 0; shift -= 4) out += kHex[(unit >> shift) & 15];
    };
    if (c.code >= 0x10000) {
      put(0xD800 + ((c.code - 0x10000) >> 10));
      put(0xDC00 + ((c.code - 0x10000) & 0x3FF));
    } else {
      put(c.code);
    }
  }
  return out;
}

}  // namespace

Vocabulary read_vocab_and_merges(std::string_view vocab_json, std::string_view merges_text, std::string vocab_source,
                                 std::string merges_source,
                                 const std::vector<std::pair<std::string, std::int64_t>>& added) {
  RawVocabulary raw;
  raw.vocab_source = std::move(vocab_source);
  raw.merges_source = std::move(merges_source);
  JsonReader json(vocab_json, raw.vocab_source);
  read_entries(json, raw);
  json.finish();
  read_merge_lines(merges_text, raw);
  std::vector<AddedToken> tokens;
  for (const auto& [text, id] : added) tokens.push_back({text, id});
  add_specials(tokens, raw);
  return make_vocabulary(raw);
}

Vocabulary read_tokenizer_json(std::string_view text, std::string source) {
  RawVocabulary raw;
  raw.vocab_source = source;
  raw.merges_source = source;
  raw.merge_unit = "model.merges entry";
  Settings settings;
  std::vector<AddedToken> added;
  bool model = false;
  std::string key;
  JsonReader json(text, source);
  json.begin_object();
  while (json.next_member(key)) {
    if (key == "model") {
      read_model(json, raw);
      model = true;
    } else if (key == "added_tokens" && json.peek() == Kind::kArray) {
      added = read_added(json, source);
    } else if (key == "normalizer") {
      settings.normalizer = json.raw();
    } else if (key == "pre_tokenizer") {
      settings.pre_tokenizer = json.raw();
    } else if (key == "post_processor") {
      settings.post_processor = json.raw();
    } else if (key == "decoder") {
      settings.decoder = json.raw();
    } else {
      json.skip();  // version; truncation and padding, which are options of a call
    }
  }
  json.finish();
  if (!model) unsupported(source, "model", "none", "a BPE model");
  check_settings(settings, source);
  add_specials(added, raw);
  return make_vocabulary(raw);
}

std::string write_vocab_json(const Vocabulary& vocabulary, bool ascii) {
  std::string out = "{";
  for (std::uint32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string symbol = json_quote(vocabulary.symbol(id));
    out += id ? ", " : "";
    out += ascii ? ascii_only(symbol) : symbol;
    out += ": " + std::to_string(id);
  }
  return out += "}";
}

std::string write_merges(const Vocabulary& vocabulary) {
  std::string out = "#version: 0.2\n";
  for (const Merge& m : vocabulary.merges()) {
    out += vocabulary.symbol(m.left) + " " + vocabulary.symbol(m.right) + "\n";
  }
  return out;
}

std::string write_tokenizer_json(const Vocabulary& vocabulary) {
  const std::string level =
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* comma = "\n";
  for (const std::uint32_t id : vocabulary.specials()) {
    out += std::string(comma) + "    {\"id\": " + std::to_string(id) +
           ", \"content\": " + json_quote(vocabulary.symbol(id)) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}";
    comma = ",\n";
  }
  out += "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": " + level + ",\n  \"post_processor\": " + level +
         ",\n  \"decoder\": " + level +
         ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
         "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
         "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  for (std::uint32_t id = 0; id < vocabulary.size(); ++id) {
    out += (id ? ",\n      " : "\n      ") + json_quote(vocabulary.symbol(id)) + ": " + std::to_string(id);
  }
  out += "\n    },\n    \"merges\": [";
  comma = "\n      ";
  for (const Merge& m : vocabulary.merges()) {
    out += comma + ("[" + json_quote(vocabulary.symbol(m.left)) + ", " + json_quote(vocabulary.symbol(m.right)) + "]");
    comma = ",\n      ";
  }
  return out += "\n    ]\n  }\n}\n";
}

}  // namespace gpt2::tokenizer
