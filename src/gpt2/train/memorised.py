"""How much of what a model writes is its training text, word for word.

A tuned model is asked for text; then every stretch of it that stands in the training tokens is found. Short
ones are the language's, long ones are memory: "at least 32 tokens in a row" is some 25 words, which nobody
writes twice by chance. Compare the number with that of the model before the tuning, and with other texts of
the domain. Exact: by a 64-bit hash of every stretch, and a comparison of the tokens themselves.

Pure numpy. Knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

SPAN = 32
"""Tokens in a row that count as memorised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorised:
    tokens: int
    """Looked at."""
    span: int
    """The least length that counts."""
    in_spans: int
    """Tokens within a stretch of at least `span` tokens that stands in the training text."""
    longest: int
    """The longest such stretch, at least 0; shorter ones than `span` are not measured."""
    longest_at: tuple[int, int] | None
    """(which text, its first token) of the longest."""

    @property
    def share(self) -> float:
        return self.in_spans / self.tokens if self.tokens else 0.0


def memorised(texts: Sequence[Sequence[int]], training: Ints, *, span: int = SPAN) -> Memorised:
    """Stretches of at least `span` tokens of `texts` that are in `training` [N]."""
    training = np.asarray(training, np.int64)
    places = _index(training, span)
    total = inside = longest = 0
    longest_at = None
    for number, text in enumerate(texts):
        ids = np.asarray(text, np.int64)
        total += len(ids)
        covered = np.zeros(len(ids), bool)
        for at in range(len(ids) - span + 1):
            if at and covered[at : at + span].all():
                continue
            length = _longest_match(ids[at:], training, places, span)
            if length:
                covered[at : at + length] = True
            if length > longest:
                longest, longest_at = length, (number, at)
        inside += int(covered.sum())
    return Memorised(tokens=total, span=span, in_spans=inside, longest=longest, longest_at=longest_at)


def _index(training: Ints, span: int) -> tuple[npt.NDArray[np.uint64], Ints]:
    """The hashes of all stretches, sorted, and where each begins."""
    hashes = _hashes(training, span)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order


def _hashes(ids: Ints, span: int) -> npt.NDArray[np.uint64]:
    """A polynomial in an odd number, modulo 2^64, of each stretch: [N - span + 1]."""
    count = len(ids) - span + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    out = np.zeros(count, np.uint64)
    for offset in range(span):
        values = (ids[offset : offset + count].astype(np.uint64) + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        out = out * np.uint64(0xD1342543DE82EF95) + (values ^ (values >> np.uint64(29)))
    return out


def _longest_match(ids: Ints, training: Ints, places: tuple[npt.NDArray[np.uint64], Ints], span: int) -> int:
    """How many of the first ids stand somewhere in a row; 0 for fewer than `span`."""
    hashes, order = places
    wanted = _hashes(ids[:span], span)[0]
    first, last = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
    best = 0
    for start in order[first:last].tolist():
        other = training[start : start + len(ids)]
        differs = np.flatnonzero(other != ids[: len(other)])
        length = int(differs[0]) if len(differs) else len(other)
        best = max(best, length)
    return best if best >= span else 0
