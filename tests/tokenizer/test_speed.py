"""No text is slow, and the vocabulary is there at once. Processor time, so that neighbours do not count.

The limits are several times what this takes; benchmarks/tokenizer/compare.py has the figures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.tokenizer import Tokenizer
from machine import SANITIZED

pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers take several times as long")

MILLION = 1_000_000
WORST: dict[str, Callable[[], str | bytes]] = {
    "one letter": lambda: "a" * MILLION,
    "spaces": lambda: " " * MILLION,
    "newlines": lambda: "\n" * MILLION,
    "spaces and a letter": lambda: " " * MILLION + "a",
    "random bytes": lambda: random.Random(1).randbytes(MILLION),
    "random letters": lambda: "".join(random.Random(2).choices("abcdefghijklmnopqrstuvwxyz", k=MILLION)),
    "random digits": lambda: "".join(random.Random(3).choices("0123456789", k=MILLION)),
    "two letters": lambda: "ab" * (MILLION // 2),
    "punctuation": lambda: "!?" * (MILLION // 2),
    "apostrophes": lambda: "'" * MILLION,
    "the beginning of a special token": lambda: "<|endoftext|" * (MILLION // 12),
    "one Chinese character": lambda: "中" * (MILLION // 3),
    "invalid bytes": lambda: b"\xff" * MILLION,
    "unfinished characters": lambda: b"\xe4\xb8" * (MILLION // 2),
}


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize("make", WORST.values(), ids=WORST.keys())
def test_a_megabyte_of_the_worst_takes_less_than_a_second(
    trained: Tokenizer, make: Callable[[], str | bytes]
) -> None:
    text = make()
    ids = trained.encode_array(text, allowed_special="all")
    assert trained.decode_bytes(ids) == (text.encode() if isinstance(text, str) else text)
    assert min(seconds(lambda: trained.encode_array(text, allowed_special="all")) for _ in range(2)) < 1.0


def test_twice_the_text_takes_about_twice_the_time(trained: Tokenizer) -> None:
    """One word: quadratic time would be 16 times as much."""
    short, long = "ab" * 100_000, "ab" * 400_000
    trained.encode_array(long)
    once = min(seconds(lambda: trained.encode_array(short)) for _ in range(5))
    four_times = min(seconds(lambda: trained.encode_array(long)) for _ in range(5))
    assert four_times < 10 * max(once, 0.001)


def test_the_real_vocabulary_is_ready_at_once(real_vocab: Path) -> None:
    fastest = min(seconds(lambda: Tokenizer.load(real_vocab)) for _ in range(5))
    assert fastest < 0.060, f"{fastest * 1000:.0f} ms (30 ms is promised for an ordinary machine at rest)"
