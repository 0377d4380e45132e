"""Which documents stay, and in which split: decided once, from the facts of all of them.

In this order a document is left out because it is blank, because it has an n-gram of an evaluation text,
because the same text came before, because nearly the same text came before. Of what stays, a part is held
back for validation:

  - documents whose hash, with the seed, falls below the share: the same ones whatever the order, the
    vocabulary or what else is there, and a text that is there twice is never on both sides;
  - where there are so few documents that one is more than the share (a single file, some books), the end of
    each, cut at a paragraph.

Knows nothing of files.

    D  documents
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2.errors import DataError
from gpt2.train.data import duplicates
from gpt2.train.data.duplicates import Hashes, mixed
from gpt2.train.data.spool import Records

Ints = npt.NDArray[np.int64]

TRAIN, VALIDATION, BLANK, CONTAMINATED, EXACT, NEAR = range(6)
LEFT_OUT = {BLANK: "blank", CONTAMINATED: "contaminated", EXACT: "exact duplicate", NEAR: "near duplicate"}
SHORTEST_END = 16
"""Tokens that the end of a document must have to be worth holding back."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The fate of every document."""

    fate: npt.NDArray[np.int8]
    """[D]: TRAIN, VALIDATION or why it is left out."""
    twin: Ints
    """[D]: the document that a duplicate duplicates; itself otherwise."""
    cut: Ints
    """[D]: the number of stored tokens that stay in training where the end is held back; 0 where nothing
    is."""


def choose(
    documents: Records,
    *,
    held_back: npt.NDArray[np.bool_],
    validation: float,
    seed: int,
    near: float | None,
    exact: bool,
    shingles_of: Callable[[int], Hashes],
    paragraph: Callable[[int, int], int],
) -> Choice:
    """
    Args:
        documents: the facts of each; those of validation sources come first, so that training gives way to
        them. held_back: [D] bool: of a source that is for validation as a whole.
        validation: the share to hold back of the others.
        near: the Jaccard from which on a text is a near duplicate; None: not looked for.
        shingles_of: duplicates.shingle_set() of the text of a document.
        paragraph: (document, token) -> the token after `token` at which a paragraph begins, 0 where there is
        none.

    Raises DataError where nothing stays, or nothing can be held back.
    """
    count = len(documents)
    fate = np.full(count, TRAIN, np.int8)
    twin = np.arange(count, dtype=np.int64)
    fate[documents.blank] = BLANK
    fate[(fate == TRAIN) & (documents.hits > 0)] = CONTAMINATED
    if exact:
        stay = np.flatnonzero(fate == TRAIN)
        first = duplicates.exact_duplicates(documents.key[stay])
        again = first != np.arange(len(stay))
        fate[stay[again]], twin[stay[again]] = EXACT, stay[first[again]]
    if near is not None:
        stay = np.flatnonzero(fate == TRAIN)
        buckets = duplicates.bands(documents.signature[stay])
        first = duplicates.near_duplicates(buckets, near, lambda i: shingles_of(int(stay[i])))
        again = first != np.arange(len(stay))
        fate[stay[again]], twin[stay[again]] = NEAR, stay[first[again]]
    cut = np.zeros(count, np.int64)
    fate[(fate == TRAIN) & held_back] = VALIDATION
    stay = np.flatnonzero(fate == TRAIN)
    if not len(stay):
        counts = ", ".join(f"{int((fate == why).sum())} {name}" for why, name in LEFT_OUT.items())
        raise DataError("no document stays to train on", got=f"{count} documents: {counts}")
    if validation:
        _hold_back(documents, stay, validation, seed, fate, cut, paragraph)
    return Choice(fate, twin, cut)


def _hold_back(
    documents: Records,
    stay: Ints,
    share: float,
    seed: int,
    fate: npt.NDArray[np.int8],
    cut: Ints,
    paragraph: Callable[[int, int], int],
) -> None:
    """Choose what is for validation: changes `fate` and `cut`."""
    if len(stay) * share <= 1 and not documents.loss_from[stay].any():
        for i in stay.tolist():
            tokens = int(documents.tokens[i])
            after = min(int(tokens * (1 - share)), tokens - 2 * SHORTEST_END)
            at = paragraph(i, after) if after > tokens // 2 else 0
            if 0 < at <= tokens - SHORTEST_END:
                cut[i] = at
        if cut.any():
            return
    ranks = order_of(documents.key[stay], seed)
    chosen = ranks < np.uint64(min(int(share * 2**64), 2**64 - 1))
    if not chosen.any():
        chosen[np.argmin(ranks)] = True
    if chosen.all():
        raise DataError(
            "there is too little text to hold any back for validation",
            got=f"{len(stay)} document of {int(documents.tokens[stay].sum())} tokens",
            expected="more than one document, or one with several paragraphs",
            hint="more text, or --validation 0, which trains without knowing when to stop",
        )
    fate[stay[chosen]] = VALIDATION


def order_of(keys: Hashes, seed: int) -> Hashes:
    """[D, 2] hashes of texts -> a number for each that is as good as drawn from 0 to 2**64 - 1: those below
    share * 2**64 are held back."""
    return mixed(keys[:, 0] ^ mixed(np.array([seed], np.uint64)))


def paragraph_after(
    read: Callable[[int, int], Any],
    size: Callable[[Any], Ints],
    text: Callable[[Any], bytes],
    start: int,
    stop: int,
) -> int:
    """The first token in [start, stop) at which a paragraph begins (after an empty line; else a line; else a
    word), looking at some thousand tokens; 0 where there is none.

    `read(a, b)` gives tokens, `size` the bytes of each, `text` their bytes together.
    """
    ids = read(start, min(start + 4096, stop))
    if not len(ids):
        return 0
    begins = np.cumsum(size(ids))  # bytes before the token that follows each
    raw = text(ids)
    for mark in (b"\n\n", b"\n", b" "):
        at = raw.find(mark)
        while at >= 0:
            end = at + len(mark) if mark != b" " else at
            while mark != b" " and raw[end : end + 1] == b"\n":
                end += 1
            token = int(np.searchsorted(begins, end))
            if token < len(begins) - 1 and begins[token] == end:
                return start + token + 1
            at = raw.find(mark, max(end, at + 1))
    return 0
