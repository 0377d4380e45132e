"""A vocabulary that we learn is the one that Hugging Face's BpeTrainer learns."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2.errors as errors
from gpt2 import _native
from gpt2.tokenizer import Tokenizer
from machine import byte_symbols
from tokenizer.oracle import package
from tokenizer.strings import hard_strings


def by_hugging_face(
    texts: list[str], vocab_size: int, min_frequency: int = 0
) -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges as tokenizers learns them, without special tokens."""
    tokenizers = package("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [list(pair) for pair in model["merges"]]


def ours(texts: list[str], vocab_size: int, min_frequency: int = 0) -> tuple[dict[str, int], list[list[str]]]:
    trainer = _native.TokenizerTrainer(1_000_000)
    for text in texts:
        trainer.feed(text.encode())
        trainer.end_document()
    model = json.loads(trainer.train(vocab_size, [], min_frequency).tokenizer_json())["model"]
    return model["vocab"], model["merges"]


@pytest.mark.parametrize(("vocab_size", "min_frequency"), [(256, 0), (1000, 0), (5000, 0), (5000, 7)])
def test_learns_what_hugging_face_learns(vocab_size: int, min_frequency: int) -> None:
    texts = list(hard_strings(4_000, seed=50))
    assert ours(texts, vocab_size, min_frequency) == by_hugging_face(texts, vocab_size, min_frequency)


def test_learns_what_hugging_face_learns_from_prose(shared_data: Path) -> None:
    text = (shared_data / "corpora" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert ours([text], 4000) == by_hugging_face([text], 4000)


@settings(max_examples=60)
@given(
    words=st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=8),
    size=st.integers(256, 320),
)
def test_ties_and_runs(words: list[str], size: int) -> None:
    """Two letters only: ties, overlapping runs and strings that can be made in two ways are everywhere."""
    assert ours(words, size) == by_hugging_face(words, size)


def test_ids_of_the_bytes_and_of_the_special_tokens(trained: Tokenizer, corpus: Path) -> None:
    order = sorted(range(256), key=lambda byte: byte_symbols()[byte])
    assert [trained.token_bytes(i) for i in range(256)] == [bytes([byte]) for byte in order]
    tokenizer = Tokenizer.train(str(corpus), 400, special_tokens=["<|pad|>", "<|endoftext|>"])
    assert tokenizer.special_tokens == {"<|pad|>": 398, "<|endoftext|>": 399}
    assert tokenizer.eos_id == 399
    assert Tokenizer.train(corpus, 400, special_tokens=[]).eos_id is None


def test_pieces_of_any_size_count_as_the_whole() -> None:
    """Files are read in pieces: a border may be anywhere, within a character, a contraction or white
    space."""
    rng = random.Random(9)
    text = "".join(hard_strings(800, seed=51)).encode()
    whole = _native.TokenizerTrainer(1_000_000)
    whole.feed(text)
    whole.end_document()
    cut = _native.TokenizerTrainer(1_000_000)
    at = 0
    while at < len(text):
        size = rng.choice([1, 2, 3, 5, 8, 100, 4000])
        cut.feed(text[at : at + size])
        at += size
    cut.end_document()
    assert (cut.words, cut.bytes) == (whole.words, whole.bytes) == (whole.words, len(text))
    assert cut.train(2000, [], 0).canonical() == whole.train(2000, [], 0).canonical()


def test_each_file_is_a_document(tmp_path: Path) -> None:
    """No word spans two files, so the order of the files changes nothing."""
    for name, content in (("a", "one two"), ("b", "three"), ("c", " \n ")):
        (tmp_path / name).write_text(content)
    paths = [tmp_path / name for name in "abc"]
    assert Tokenizer.train(paths, 300).hash == Tokenizer.train(reversed(paths), 300).hash


def test_the_rarest_words_are_forgotten_when_there_are_too_many() -> None:
    trainer = _native.TokenizerTrainer(1000)
    rng = random.Random(10)
    for _ in range(50):
        rare = "".join(f" {rng.randrange(10**9)}" for _ in range(500))
        trainer.feed(("the cat " * 100 + rare).encode())
    trainer.end_document()
    assert trainer.words <= 1000
    assert trainer.dropped > 10_000
    tokenizer = Tokenizer(trainer.train(300, [], 0))
    assert len(tokenizer.encode(" the cat")) == 2, "the frequent words were kept"


def test_forgotten_words_are_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(" ".join(str(n) for n in range(3000)))
    with pytest.warns(errors.ApproximateResult, match="occurrences of the rarest words .* max_words=1,000"):
        Tokenizer.train(tmp_path / "text", 300, max_words=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer.train(tmp_path / "text", 300)


def test_a_small_corpus_gives_a_small_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("aa aa")
    tokenizer = Tokenizer.train(tmp_path / "text", 10_000)
    assert len(tokenizer) == 256 + 2 + 1
    assert Tokenizer.train([], 10_000).vocab_size == 257


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocab_size": 256}, "vocab_size: got 256"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"special_tokens": [""]}, "special_tokens"),
        ({"special_tokens": ["a"]}, "special_tokens"),
        ({"special_tokens": ["<é>"]}, "special_tokens"),
        ({"special_tokens": ["<x>", "<x>"]}, "special_tokens"),
        ({"special_tokens": ["the"]}, "ordinary token"),
        ({"max_words": 0}, "max_words"),
        ({"min_frequency": -1}, "min_frequency"),
    ],
)
def test_options_that_cannot_be(corpus: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=said):
        Tokenizer.train([corpus], **{"vocab_size": 2000} | options)  # type: ignore[arg-type]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.txt"):
        with pytest.raises(errors.TokenizerError, match="cannot be read"):
            Tokenizer.train([path], 300)
