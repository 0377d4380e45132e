"""Pieces of text in, tokens and facts out: the part of prepare that takes the time, on all cores.

One thread reads; the pieces go in blocks of about a megabyte to workers, and come back in their order. The
workers are threads: tokenising, hashing and numpy let go of Python's lock, so they run side by side, share
one vocabulary and need no copy of the text. What runs under the lock is reading JSON and tables, some 150 MB
a second.

Memory: a few blocks for each worker, whatever the size of the sources.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2.tokenizer import Tokenizer
from gpt2.train.data import duplicates
from gpt2.train.data.readers import Piece
from gpt2.train.data.shards import token_type
from gpt2.train.data.spool import Array, Records, no_signature

BLOCK = 1 << 20
"""Bytes of a block, about: some milliseconds of work, so that handing it over costs nothing."""
MANY = 4096
"""Pieces of a block at most, where they are short."""
AHEAD = 3
"""Blocks that wait or are worked on, for each worker."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive pieces, each with the number of its source."""

    pieces: list[tuple[int, Piece]]
    read: int
    """Bytes of the files that have been read up to here."""


@dataclass(frozen=True, slots=True)
class Done:
    """A block, tokenised."""

    tokens: Array
    """The stored tokens of all its pieces, uint16 or uint32."""
    records: Records
    read: int


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done to a block. Threads share it."""

    tokenizer: Tokenizer
    eos_id: int
    near: bool
    evaluation: duplicates.Evaluation | None

    def __call__(self, block: Block) -> Done:
        pieces = [piece for _, piece in block.pieces]
        texts: list[bytes] = []
        for piece in pieces:
            texts += [piece.text] if piece.prompt is None else [piece.prompt, piece.text]
        ids = self.tokenizer.encode_batch_arrays(texts, threads=1)
        tokens, counts, loss_from = self._put_together(pieces, ids)
        whole = [piece.text if piece.prompt is None else piece.prompt + piece.text for piece in pieces]
        hits, signature = self._of_words(whole)
        digests = b"".join(hashlib.sha256(text).digest()[:16] for text in whole)
        records = Records(
            source=np.array([number for number, _ in block.pieces], np.int32),
            number=np.array([piece.number for piece in pieces], np.int64),
            first=np.array([piece.first for piece in pieces], np.bool_),
            tokens=counts,
            loss_from=loss_from,
            size=np.array([len(text) for text in whole], np.int64),
            blank=np.array(
                [not piece.text[:64].strip() and not piece.text.strip() for piece in pieces], np.bool_
            ),
            key=np.frombuffer(digests, np.uint64).reshape(-1, 2),
            hits=hits,
            signature=signature,
        )
        return Done(tokens, records, block.read)

    def _put_together(self, pieces: list[Piece], ids: list[Any]) -> tuple[Array, Array, Array]:
        """The stored tokens, and for each piece their number and where its loss begins. A prompt is tokenised
        by itself, as it will be when a model is asked to complete it."""
        stretches: list[Any] = []
        counts, loss_from = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), np.int64)
        marker = np.array([self.eos_id], np.int32)
        following = iter(ids)
        for i, piece in enumerate(pieces):
            mine = [marker] if piece.first else []
            if piece.prompt is not None:
                mine.append(next(following))
                loss_from[i] = 1 + len(mine[-1])
            mine.append(next(following))
            counts[i] = sum(map(len, mine))
            stretches += mine
        out = np.empty(int(counts.sum()), token_type(self.tokenizer.vocab_size))
        np.concatenate(stretches, out=out, casting="unsafe")  # every id is less than V, which the type holds
        return out, counts, loss_from

    def _of_words(self, texts: list[bytes]) -> tuple[Array, Array]:
        """What is found by the words of the texts: n-grams of an evaluation, signatures."""
        hits, signature = np.zeros(len(texts), np.int64), no_signature(len(texts))
        if self.near or self.evaluation is not None:
            hashes, owner = duplicates.words(texts)
            if self.evaluation is not None:
                hits = self.evaluation.hits(hashes, owner, len(texts))
            if self.near:
                hashed = duplicates.shingles(hashes, owner, duplicates.SHINGLE, short=True)
                signature = duplicates.signatures(*hashed, len(texts))
        return hits, signature


def blocks(pieces: Iterable[tuple[int, Piece, int]]) -> Iterator[Block]:
    """(number of the source, piece, bytes read) in blocks. They depend on the pieces alone."""
    some: list[tuple[int, Piece]] = []
    size = 0
    read = 0
    for source, piece, read in pieces:
        some.append((source, piece))
        size += len(piece.text) + len(piece.prompt or b"")
        if size >= BLOCK or len(some) >= MANY:
            yield Block(some, read)
            some, size = [], 0
    if some:
        yield Block(some, read)


def in_order(work: Work, some: Iterable[Block], threads: int) -> Iterator[Done]:
    """work(block) for every block, in their order, `threads` at a time."""
    with ThreadPoolExecutor(threads, thread_name_prefix="gpt2-prepare") as pool:
        waiting: deque[Future[Done]] = deque()
        try:
            for block in some:
                waiting.append(pool.submit(work, block))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
