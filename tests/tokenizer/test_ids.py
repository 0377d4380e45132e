"""The ids are those of tiktoken, Hugging Face tokenizers and transformers' GPT2Tokenizer, whatever the text.

Full forms: `python tests/tokenizer/fuzz_ids.py --strings 1000000`, `python tests/tokenizer/corpora_ids.py`.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import gpt2.errors as errors
from gpt2.tokenizer import Tokenizer
from tokenizer.oracle import (
    Encode,
    by_tiktoken,
    by_tiktoken_from_files,
    by_tokenizers,
    by_transformers,
    first_difference,
)
from tokenizer.strings import WORDS, hard_strings


@pytest.fixture(scope="session")
def real(real_vocab: Path) -> Tokenizer:
    return Tokenizer.load(real_vocab)


@pytest.fixture(scope="session")
def saved(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder)
    return folder


def assert_same_ids(tokenizer: Tokenizer, oracle: Encode, texts: list[str]) -> None:
    batch = tokenizer.encode_batch(texts, threads=2)
    for text, ids in zip(texts, batch, strict=True):
        theirs = oracle(text)
        assert ids == theirs, f"{text!r}: {first_difference(ids, theirs)}"


def test_cases_of_llama_cpp(real: Tokenizer, real_vocab: Path) -> None:
    inputs = (real_vocab / "cases.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    outputs = [[int(i) for i in line.split()] for line in (real_vocab / "cases.out").read_text().split("\n")]
    for text, ids in zip(inputs, outputs, strict=False):
        assert real.encode(text) == ids, repr(text)
    assert len(inputs) >= 40


def test_hard_strings_as_tiktoken_reads_the_real_vocabulary(real: Tokenizer, real_vocab: Path) -> None:
    assert_same_ids(real, by_tiktoken_from_files(real_vocab), list(hard_strings(20_000)))


def test_hard_strings_as_transformers_with_the_real_vocabulary(real: Tokenizer, real_vocab: Path) -> None:
    oracle = by_transformers(real_vocab / "encoder.json", real_vocab / "vocab.bpe")
    # In transformers an added token in the text is always that token; ours is plain text unless allowed.
    texts = [text for text in hard_strings(2_000, seed=1) if "<|endoftext|>" not in text]
    assert_same_ids(real, oracle, texts)


def test_hard_strings_as_tiktoken_with_a_vocabulary_of_ours(trained: Tokenizer) -> None:
    assert_same_ids(trained, by_tiktoken(trained), list(hard_strings(10_000, seed=2)))


def test_hard_strings_as_tokenizers_from_the_file_that_we_write(trained: Tokenizer, saved: Path) -> None:
    texts = [text for text in hard_strings(3_000, seed=3) if "<|endoftext|>" not in text]
    assert_same_ids(trained, by_tokenizers(saved), texts)


def test_allowed_special_as_tokenizers_from_the_file_that_we_write(trained: Tokenizer, saved: Path) -> None:
    texts = [
        "<|endoftext|>",
        "a<|endoftext|>b",
        " <|endoftext|> \n <|endoftext|>x",
        "<|endoftext|><|endoftext|",
        "no",
    ]
    oracle = by_tokenizers(saved)
    for text in texts:
        assert trained.encode(text, allowed_special="all") == oracle(text), repr(text)


def test_corpora(real: Tokenizer, real_vocab: Path, shared_data: Path) -> None:
    """A piece of each corpus; tests/tokenizer/corpora_ids.py takes them whole."""
    oracle = by_tiktoken_from_files(real_vocab)
    files = ["corpora/tinyshakespeare.txt", "corpora/aesopfables.json", "corpora/tinystories-sample.txt"]
    files += ["eval/wikitext2/wiki.test.raw", "eval/lambada/lambada_test.jsonl"]
    for name in files:
        text = (shared_data / name).read_text(encoding="utf-8")[:400_000]
        theirs, ours = oracle(text), real.encode(text)
        assert ours == theirs, f"{name}: {first_difference(ours, theirs)}"


def test_every_road_gives_the_same_ids(trained: Tokenizer) -> None:
    """list = array = batch = bytes = offsets, on texts long enough to be cut up between threads."""
    r = random.Random(4)
    texts = ["".join(hard_strings(3_000, seed=5)), " ".join(r.choices(WORDS, k=120_000)), "", "x"]
    batch = trained.encode_batch(texts, threads=3)
    arrays = trained.encode_batch_arrays(texts, threads=2)
    for text, ids, array in zip(texts, batch, arrays, strict=True):
        assert trained.encode(text) == ids
        assert trained.encode(text.encode()) == ids
        assert trained.encode_array(text).tolist() == ids == array.tolist()
        assert trained.encode_with_offsets(text)[0] == ids
        assert Tokenizer(trained._native).encode(text) == ids
        assert trained.decode(ids) == text


def test_the_answer_never_depends_on_what_came_before(trained: Tokenizer, saved: Path) -> None:
    texts = list(hard_strings(3_000, seed=6))
    warm = [trained.encode(text) for text in texts + texts][len(texts) :]
    for start in range(0, len(texts), 500):
        fresh = Tokenizer.load(saved)
        chosen = slice(start, start + 500)
        assert [fresh.encode(text) for text in reversed(texts[chosen])] == warm[chosen][::-1]


def test_special_tokens_are_plain_text_unless_allowed(trained: Tokenizer) -> None:
    text = "one<|endoftext|>two"
    plain = trained.encode(text)
    assert trained.eos_id not in plain
    marked = trained.encode(text, allowed_special={"<|endoftext|>"})
    assert marked == [*trained.encode("one"), trained.eos_id, *trained.encode("two")]
    assert trained.encode(text, allowed_special="all") == marked
    assert trained.decode(plain) == trained.decode(marked) == text
    assert trained.decode(marked, skip_special=True) == "onetwo"
    for wrong in ({"<|pad|>"}, "<|endoftext|>"):
        with pytest.raises(errors.InvalidRequest, match="allowed_special"):
            trained.encode(text, allowed_special=wrong)


def test_the_longest_of_special_tokens_that_start_together_wins(corpus: Path) -> None:
    tokenizer = Tokenizer.train([corpus], 300, special_tokens=["<a>", "<a><b>", "<b>"])
    ids = tokenizer.encode("<a><b><a>x<b>", allowed_special="all")
    texts = [tokenizer.token_bytes(i).decode() for i in ids]
    assert texts == ["<a><b>", "<a>", "x", "<b>"]
    some = [tokenizer.token_bytes(i).decode() for i in tokenizer.encode("<a><b>", allowed_special=["<a>"])]
    assert some[0] == "<a>"
    assert "".join(some) == "<a><b>"
    assert not re.search("<b>", some[1])
