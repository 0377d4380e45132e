"""What the tests ask of the machine and of the project's tree.

Knows nothing of fixtures, so that any test can import it: `from machine import ROOT, isas`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
REQUIRE_ALL = os.environ.get("GPT2_REQUIRE_ALL") == "1"


def isas() -> list[str]:
    """The instruction sets that this build has and this machine runs: those that give the same bits for every
    width, slowest first ('generic'), then those that round activations beside bfloat16 weights."""
    from gpt2 import _native

    return [*_native.available_isas(), *_native.rounding_isas()]


def exact_isa() -> str:
    """The fastest instruction set that multiplies bfloat16 weights by float32 activations."""
    from gpt2 import _native

    return str(_native.available_isas()[-1])


def need(present: object, reason: str) -> None:
    """Skip with the reason where a tool is absent; fail where all must run (GPT2_REQUIRE_ALL=1)."""
    if present:
        return
    if REQUIRE_ALL:
        pytest.fail(f"GPT2_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for the bytes in a GPT-2 vocabulary, by byte value.

    Bytes that print stay themselves; the others take the code points from 256 up, in order (the rule by which
    GPT-2's released vocabulary was written).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A real, if small, byte-level BPE: 256 bytes, a dozen merges, the end-of-text marker. 269 entries."""
    space = byte_symbols()[ord(" ")]
    pairs = "t h|th e|_ a|_ the|i n|e r|o n|r e|_ w|n d|_ s|a nd".replace("_", space).split("|")
    merges = [(left, right) for left, right in (pair.split(" ") for pair in pairs)]
    symbols = [*sorted(byte_symbols()), *(left + right for left, right in merges), "<|endoftext|>"]
    return {symbol: i for i, symbol in enumerate(symbols)}, merges


SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
"""Whether the tests run on an extension with sanitizers (sanitized.py): slower, and freed memory is kept."""
