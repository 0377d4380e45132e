// Learn the merges of a byte-level BPE from word counts (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1).
//
// The result is that of Hugging Face's BpeTrainer over its ByteLevel pre-tokenizer, merge for merge: the pair with the
// highest count is merged, ties go to the lowest (left id, right id); where the merged string is a token already, that
// id is used again. Ids: the 256 bytes in the order of byte_symbols.h, then the merges as they are learnt, then the
// special tokens (Hugging Face puts those first).
//
// Time O(total length of the different words + sum over merges of the words that hold the pair), memory O(total
// length).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/vocabulary.h"
#include "tokenizer/word_counts.h"

namespace gpt2::tokenizer {

struct TrainOptions {
  std::size_t vocab_size = 0;         // tokens in all; fewer where the corpus has no more pairs to merge
  std::vector<std::string> specials;  // printable ASCII, each once
  std::uint64_t min_frequency = 0;    // a pair that occurs less often is not merged
};

// Throws kInvalidRequest for a vocab_size that does not hold the bytes and the special tokens, and for special tokens
// that are empty, repeated, not printable ASCII, or a token already.
Vocabulary train(const WordCounts& counts, const TrainOptions& options);

}  // namespace gpt2::tokenizer
