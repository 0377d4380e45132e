"""Every code point is in the class in which tiktoken has it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from gpt2.tokenizer import Tokenizer
from machine import ROOT
from tokenizer.oracle import PATTERN, by_tiktoken_from_files, package

CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
PROBES = "a1!\n"
"""One character of each class. A code point is in the class of the probe with which it forms one
pre-token."""


def class_by_tiktoken(codes: list[int]) -> list[str]:
    """tiktoken makes one token of a pre-token that is in its vocabulary as a whole, so a vocabulary of
    probe + character shows which ones stay together."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for code in codes:
        for probe in PROBES:
            ranks.setdefault((probe + chr(code)).encode(), len(ranks))
    encoding = package("tiktoken").Encoding(
        "probe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    return [
        "".join(probe for probe in PROBES if len(encoding.encode_ordinary(probe + chr(code))) == 1)
        for code in codes
    ]


def class_of_ours(tokenizer: Tokenizer, codes: list[int]) -> list[str]:
    """The same question to ours: do probe and character share a pre-token? The vocabulary below merges each
    probe with every byte, so a shared pre-token has fewer tokens than its parts."""
    texts = [probe + chr(code) for code in codes for probe in PROBES]
    counts = [len(ids) for ids in tokenizer.encode_batch(texts, threads=2)]
    apart = [len(chr(code).encode()) + 1 for code in codes]
    rows = [counts[i : i + len(PROBES)] for i in range(0, len(counts), len(PROBES))]
    return [
        "".join(probe for probe, count in zip(PROBES, row, strict=True) if count < whole)
        for row, whole in zip(rows, apart, strict=True)
    ]


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """256 bytes and the merges of each probe with each byte that can begin a character."""
    folder = tmp_path_factory.mktemp("prober")
    bytes_only = Tokenizer.train([], 256, special_tokens=[])
    symbols = [bytes_only._native.symbol(i) for i in range(256)]
    by_byte = {bytes_only.token_bytes(i): symbols[i] for i in range(256)}
    pairs = [(by_byte[p.encode()], by_byte[bytes([b])]) for p in PROBES for b in range(256)]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    for left, right in pairs:
        vocab.setdefault(left + right, len(vocab))
    folder.joinpath("vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = [f"{left} {right}" for left, right in pairs]
    folder.joinpath("merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Tokenizer.load(folder)


def edges() -> list[int]:
    """The ends of every range of the committed table and their neighbours, and a sample of the rest."""
    header = (ROOT / "native" / "tokenizer" / "unicode_ranges.h").read_text(encoding="utf-8")
    ends = {int(number, 16) for number in re.findall(r"0x[0-9a-f]+", header)}
    near = {code + step for code in ends for step in (-1, 0, 1)}
    return sorted(
        (near | set(CODE_POINTS[:0x800]) | set(random.Random(8).sample(CODE_POINTS, 5000))) & set(CODE_POINTS)
    )


@pytest.mark.parametrize(
    "codes", [edges(), pytest.param(CODE_POINTS, marks=pytest.mark.slow)], ids=["edges", "every"]
)
def test_the_class_of_code_points(prober: Tokenizer, codes: list[int]) -> None:
    wrong = []
    for start in range(0, len(codes), 20_000):
        some = codes[start : start + 20_000]
        theirs = class_by_tiktoken(some)
        ours = class_of_ours(prober, some)
        wrong += [(hex(c), a, b) for c, a, b in zip(some, ours, theirs, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} code points; (code, ours, theirs): {wrong[:10]}"


@pytest.mark.parametrize(
    "around", ["{}", *(pytest.param(x, marks=pytest.mark.slow) for x in ("a{}b", " {} "))]
)
def test_the_ids_of_every_code_point(real_vocab: Path, around: str) -> None:
    tokenizer, oracle = Tokenizer.load(real_vocab), by_tiktoken_from_files(real_vocab)
    texts = [around.format(chr(code)) for code in CODE_POINTS]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids == oracle(text), repr(text)
