"""The unfinished work of prepare: tokens and facts of every piece, in parts that survive a kill.

    .work/request.json   what is being prepared, so that another request does not go on with it
    .work/00000.bin      tokens of the first some thousand pieces
    .work/00000.npz      the facts of these pieces, and the SHA-256 of the .bin; it is written last

A part counts when its .npz is there and its sum is right: what a power cut left half-written does not.
Nothing is synced, because nothing is lost that cannot be made again.

Knows nothing of what the facts are for.

    P  pieces (a document has one, or several where it is long)     K  bins of a signature
"""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2.train.data.duplicates import BINS, EMPTY

Array = npt.NDArray[Any]


STRETCH = 1 << 22
"""Tokens read at a time."""


@dataclass(frozen=True, slots=True)
class Records:
    """What is known of P pieces, or of D documents: arrays with one entry for each."""

    source: Array
    """int32: the number of the source."""
    number: Array
    """int64: of the document within its source."""
    first: Array
    """bool: a document begins here."""
    tokens: Array
    """int64: stored tokens, the marker of a first piece among them."""
    loss_from: Array
    """int64: as Split.loss_from; 0 in pieces that are not first."""
    size: Array
    """int64: bytes of text, the prompt among them."""
    blank: Array
    """bool: nothing but white space is to be learnt."""
    key: Array
    """uint64 [., 2]: half of the SHA-256 of the text."""
    hits: Array
    """int64: n-grams that are in an evaluation text."""
    signature: Array
    """uint32 [., K]: see duplicates.signatures(); [., 0] where near duplicates are not looked for."""

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @classmethod
    def empty(cls, bins: int) -> Records:
        kinds = ("i4", "i8", "?", "i8", "i8", "i8", "?", "u8", "i8", "u4")
        shapes: list[tuple[int, ...]] = [(0,)] * 7 + [(0, 2), (0,), (0, bins)]
        return cls(*(np.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)))

    def documents(self) -> Records:
        """The pieces of each document put together."""
        begin = np.flatnonzero(self.first)
        if len(begin) == len(self):
            return self

        def total(values: Array) -> Array:
            return np.add.reduceat(values, begin)

        return Records(
            self.source[begin],
            self.number[begin],
            self.first[begin],
            total(self.tokens),
            self.loss_from[begin],
            total(self.size),
            np.logical_and.reduceat(self.blank, begin),
            _joined_keys(self.key, begin),
            total(self.hits),
            np.minimum.reduceat(self.signature, begin) if self.signature.shape[1] else self.signature[begin],
        )


def _joined_keys(keys: Array, begin: Array) -> Array:
    """A document of one piece has its key; one of several the hash of theirs."""
    out = keys[begin].copy()
    counts = np.diff(np.concatenate([begin, [len(keys)]]))
    for i in np.flatnonzero(counts > 1).tolist():
        raw = keys[begin[i] : begin[i] + counts[i]].tobytes()
        out[i] = np.frombuffer(hashlib.sha256(raw).digest()[:16], np.uint64)
    return out


class Spool:
    """The parts in a folder: written one after the other, read when all are there."""

    def __init__(self, folder: Path, kind: np.dtype[Any], *, with_signatures: bool) -> None:
        self._folder, self._type = folder, kind
        self._bins = BINS if with_signatures else 0
        self._records: list[Records] = []
        while (part := self._load(len(self._records))) is not None:
            self._records.append(part)
        self._starts = np.zeros(1, np.int64)

    @property
    def pieces(self) -> int:
        """P: the pieces of all parts."""
        return sum(map(len, self._records))

    def append(self, tokens: Sequence[Array], records: Sequence[Records]) -> None:
        """Write the next part."""
        part = Records.joined(records)
        stem = self._folder / f"{len(self._records):05d}"
        digest = hashlib.sha256()
        with stem.with_suffix(".bin").open("wb") as file:
            for some in tokens:
                raw = some.data.cast("B")
                digest.update(raw)
                file.write(raw)
        scratch = stem.with_suffix(".new")
        with scratch.open("wb") as file:
            arrays = {f.name: getattr(part, f.name) for f in fields(Records)}
            np.savez(file, sum=np.frombuffer(digest.digest(), np.uint8), **arrays)
        os.replace(scratch, stem.with_suffix(".npz"))
        self._records.append(part)

    def documents(self) -> Records:
        """The facts of all documents, in order."""
        return Records.joined([Records.empty(self._bins), *self._records]).documents()

    def read(self, start: int, stop: int) -> Iterator[Array]:
        """The tokens [start, stop) of all parts one behind the other, in stretches of some megabytes. They
        are read, not mapped, so that no more of them is in memory than is looked at."""
        if len(self._starts) != len(self._records) + 1:
            self._starts = np.concatenate([[0], np.cumsum([int(r.tokens.sum()) for r in self._records])])
        part = int(np.searchsorted(self._starts, start, "right")) - 1
        while start < stop:
            base, end = int(self._starts[part]), int(self._starts[part + 1])
            count = min(stop, end, start + STRETCH) - start
            path = self._folder / f"{part:05d}.bin"
            some = np.fromfile(path, self._type, count, offset=(start - base) * self._type.itemsize)
            if len(some) != count:
                raise OSError(errno.EIO, "the unfinished work has been changed", str(path))
            yield some
            start += count
            part += start == end

    def _load(self, number: int) -> Records | None:
        """A part that is there and whole; None otherwise, and then it is made again."""
        stem = self._folder / f"{number:05d}"
        try:
            with np.load(stem.with_suffix(".npz"), allow_pickle=False) as file:
                records = Records(*(file[f.name] for f in fields(Records)))
                expected = bytes(file["sum"])
            with stem.with_suffix(".bin").open("rb") as tokens:
                whole = hashlib.file_digest(tokens, "sha256").digest() == expected
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return records if whole else None


def no_signature(count: int) -> Array:
    """What stands for signatures that nobody asked for."""
    return np.full((count, 0), EMPTY, np.uint32)
