// The files of a byte-level BPE vocabulary: vocab.json + merges.txt (the same as OpenAI's encoder.json + vocab.bpe),
// and tokenizer.json of Hugging Face tokenizers.
//
// Texts in, texts out; no file is opened here. Sources are names for messages. Everything wrong is a kTokenizer Error
// that says source, line or entry, got and expected; so is a tokenizer.json with a part that would change results and
// that we do not have (another model, a normalizer, another pre-tokenizer, a post-processor that adds tokens, ...).
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace gpt2::tokenizer {

// added: further tokens and their ids that another file declares special (added_tokens.json of transformers).
Vocabulary read_vocab_and_merges(std::string_view vocab_json, std::string_view merges_text, std::string vocab_source,
                                 std::string merges_source,
                                 const std::vector<std::pair<std::string, std::int64_t>>& added = {});

Vocabulary read_tokenizer_json(std::string_view json, std::string source);

// ascii: write what is not ASCII as \u escapes, as encoder.json does.
std::string write_vocab_json(const Vocabulary& vocabulary, bool ascii);
std::string write_merges(const Vocabulary& vocabulary);
std::string write_tokenizer_json(const Vocabulary& vocabulary);

}  // namespace gpt2::tokenizer
