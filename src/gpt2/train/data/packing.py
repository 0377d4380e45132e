"""Documents into windows of T tokens, and the windows of a step into a batch.

A batch is a pure function of (seed, step, micro, rank). The place in the data that a checkpoint must remember
is therefore the number of the step and nothing else; k micro-batches of b rows hold what one batch of k b
rows holds, and N ranks together what one rank would.

Two ways to make windows:

"documents"  No document is cut that fits into a window. Short ones share a window, each seeing itself only
             (the model's `documents` and `positions`), so that the loss is that of each document alone; what
             stays free is padding. They are placed by best fit, the longest first (Ding et al. 2024,
             arXiv:2404.10830). A document that is longer than a window is cut into pieces of T.
"stream"     Documents one behind the other, cut every T tokens, looking back across the markers (as GPT-2 was
             trained: Radford et al. 2019). No padding, no mask, and so faster.

Every stored token of a split is an input once in an epoch, and its next token is a target once, except within
prompts, which are context without loss. Each epoch is another order of the same windows.

Pure numpy; knows nothing of models, devices or files.

    B  rows of a batch     T  tokens of a window     N  tokens of the split     W  windows of an epoch
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from gpt2.errors import DataError, InvalidRequest
from gpt2.train.data.shards import Offsets, Split

Packing: TypeAlias = Literal["documents", "stream"]
Ints: TypeAlias = npt.NDArray[np.int64]

NO_LOSS = -100
"""The target of a position that is not to be predicted: what torch's cross_entropy ignores."""
PADDING = -1
"""The document number of padding."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows, ready for the model: gpt2.model.GPT2()(tokens, positions=positions, documents=documents)."""

    tokens: Ints
    """int64 [B, T]. Padding is the end-of-text marker."""
    targets: Ints
    """int64 [B, T]: the token that follows, NO_LOSS (-100) in padding and within prompts."""
    documents: Ints | None
    """int64 [B, T]: which positions of a row may see each other, those of one number; padding has -1. None
    for packing="stream", where all may."""
    positions: Ints | None
    """int64 [B, T]: counted from 0 in each document of a row. None for packing="stream": 0 to T - 1."""

    @property
    def loss_tokens(self) -> int:
        """How many targets have a loss."""
        return int((self.targets != NO_LOSS).sum())


class Batches:
    """The batches of a training run, or of a measurement.

        data = Batches(Tokens("prepared").split("train"), window=256, batch=4, accumulation=8, seed=1)
        for step in range(first, data.steps(epochs=3)):
            total = data.loss_tokens(step)              # of all micro-batches and ranks
            for micro in range(8):
                b = data.batch(step, micro)
                loss = summed_cross_entropy(model, b) / total

    Dividing the *sum* of the losses by the number of targets of the whole step is what makes k micro-batches
    of b equal to one of k b: their numbers of targets differ with padding and prompts.

    Immutable; threads may share it.
    """

    def __init__(
        self,
        split: Split,
        *,
        window: int,
        batch: int,
        seed: int = 0,
        packing: Packing = "documents",
        accumulation: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            split: Tokens(folder).split("train") or Split.of(...).
            window: T, at most the model's n_positions.
            batch: B, the rows of one micro-batch on one rank.
            seed: of the order of the windows.
            packing: see the head of the file.
            accumulation: micro-batches of a step.
            rank, ranks: which part of each micro-batch this process takes; all take part in every step.

        Raises InvalidRequest for an impossible argument, DataError for a split without tokens, and for
        packing="stream" with fewer tokens than one window.
        """
        for name, value in (
            ("window", window),
            ("batch", batch),
            ("accumulation", accumulation),
            ("ranks", ranks),
        ):
            if value < 1:
                raise InvalidRequest(name, got=value, expected="1 or more")
        if not 0 <= rank < ranks:
            raise InvalidRequest("rank", got=rank, expected=f"0 to ranks - 1 = {ranks - 1}")
        if not 0 <= seed < 1 << 63:
            raise InvalidRequest("seed", got=seed, expected="0 to 2^63 - 1")
        if packing not in get_args(Packing):
            raise InvalidRequest("packing", got=repr(packing), expected='"documents" or "stream"')
        self.split, self.window, self.batch_size, self.seed = split, window, batch, seed
        self.packing, self.accumulation, self.rank, self.ranks = packing, accumulation, rank, ranks
        _check_size(split, window, packing)
        self._prompts = _Prompts(split)
        pieces = _documents_cut(split, window) if packing == "documents" else _stream_cut(split, window)
        pieces = pieces[self._prompts.targets(pieces) > 0]  # a piece of a prompt has nothing to learn from
        if not len(pieces):
            raise DataError(
                f"{split.name} has no token with a loss", expected="completions that are not empty"
            )
        self._pieces, self._bounds = _packed(pieces, window) if packing == "documents" else _one_each(pieces)
        self.windows = len(self._bounds) - 1
        """W: the windows of an epoch."""
        self._targets = np.add.reduceat(self._prompts.targets(self._pieces), self._bounds[:-1])
        self._order = lru_cache(maxsize=2)(self._make_order)

    # --- training ---

    @property
    def rows_per_step(self) -> int:
        """Windows that a step takes, on all ranks and in all micro-batches."""
        return self.batch_size * self.accumulation * self.ranks

    def steps(self, epochs: float) -> int:
        """The steps that see every window `epochs` times, rounded up."""
        return math.ceil(epochs * self.windows / self.rows_per_step)

    def epoch(self, step: int) -> float:
        """How many times the data has been seen when `step` begins."""
        return step * self.rows_per_step / self.windows

    def batch(self, step: int, micro: int = 0) -> Batch:
        """Micro-batch `micro` of `step` (both from 0) on this rank. The data never ends: epoch follows epoch,
        and a step may lie in two."""
        if step < 0 or not 0 <= micro < self.accumulation:
            raise InvalidRequest(
                "a micro-batch", got=(step, micro), expected=f"a step, and 0 to {self.accumulation - 1}"
            )
        first = step * self.rows_per_step + (micro * self.ranks + self.rank) * self.batch_size
        return self._make(self._windows_at(first, self.batch_size))

    def loss_tokens(self, step: int) -> int:
        """The targets with a loss in the whole step: all micro-batches, all ranks."""
        return int(self._targets[self._windows_at(step * self.rows_per_step, self.rows_per_step)].sum())

    # --- measuring ---

    def once(self, limit: int | None = None) -> Iterator[Batch]:
        """Every window once, in order: the same on every call, whatever the seed. For validation.

        With `limit`, that many windows evenly out of all. Every rank yields the same number of batches, the
        last ones filled up with rows of padding, which have no loss.
        """
        count = self.windows if limit is None else min(limit, self.windows)
        chosen = np.arange(count) * self.windows // max(count, 1)
        for first in range(0, count, self.batch_size * self.ranks):
            mine = first + self.rank * self.batch_size
            yield self._make(chosen[mine : mine + self.batch_size])

    # --- facts ---

    @property
    def epoch_tokens(self) -> int:
        """Targets with a loss in an epoch."""
        return int(self._targets.sum())

    @property
    def fill(self) -> float:
        """The share of positions that is not padding."""
        return float(self._pieces[:, 1].sum()) / (self.windows * self.window)

    def _windows_at(self, first: int, count: int) -> Ints:
        """The windows at places [first, first + count) of the endless sequence of epochs."""
        places = np.arange(first, first + count)
        epochs = places // self.windows
        found = np.empty(count, np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            found[here] = self._order(epoch)[places[here] % self.windows]
        return found

    def _make_order(self, epoch: int) -> Ints:
        return shuffled(self.windows, self.seed, epoch)

    def _make(self, windows: Ints) -> Batch:
        shape = (self.batch_size, self.window)
        tokens = np.full(shape, self.split.eos_id, np.int64)
        targets = np.full(shape, NO_LOSS, np.int64)
        apart = self.packing == "documents"
        documents = np.full(shape, PADDING, np.int64) if apart else None
        positions = np.zeros(shape, np.int64) if apart else None
        for row, w in enumerate(windows.tolist()):
            at = 0
            for number, (start, length) in enumerate(
                self._pieces[self._bounds[w] : self._bounds[w + 1]].tolist()
            ):
                read = self.split.read(start, start + length + 1)
                here = slice(at, at + length)
                tokens[row, here], targets[row, here] = read[:-1], read[1:]
                self._prompts.hide(targets[row, here], start)
                if documents is not None and positions is not None:
                    documents[row, here] = number
                    positions[row, here] = np.arange(length)
                at += length
        return Batch(tokens, targets, documents, positions)


def shuffled(count: int, seed: int, epoch: int) -> Ints:
    """A permutation of 0 .. count - 1 that depends on (count, seed, epoch) alone, not on the version of
    numpy.

    The numbers are sorted by a hash of (seed, epoch, number): the finaliser of SplitMix64 (Steele et al.
    2014).
    """
    base = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(epoch))
    keys = _mixed(base + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.argsort(keys, kind="stable").astype(np.int64)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Prompts:
    """Which targets have no loss: those of a document's prompt. Positions are those of the stream."""

    def __init__(self, split: Split) -> None:
        loss_from = split.loss_from
        if loss_from is None:
            self._begin = self._end = np.zeros(0, np.int64)
        else:
            has_one = loss_from > 1
            self._begin = (
                split.starts[:-1][has_one] + 1
            )  # the marker ends the document before: it has its loss
            self._end = split.starts[:-1][has_one] + loss_from[has_one]
        self._before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._end - self._begin)])

    def targets(self, pieces: Ints) -> Ints:
        """How many targets with a loss each of `pieces` [P, 2] (start, length) has: [P]."""
        first, last = pieces[:, 0] + 1, pieces[:, 0] + pieces[:, 1] + 1
        return pieces[:, 1] - (self._hidden_before(last) - self._hidden_before(first))

    def hide(self, targets: Ints, start: int) -> None:
        """Set those of `targets` (of the piece that begins at `start`) to NO_LOSS that are of a prompt."""
        first = start + 1
        k = max(int(np.searchsorted(self._begin, first, "right")) - 1, 0)
        while k < len(self._begin) and self._begin[k] < first + len(targets):
            targets[max(self._begin[k] - first, 0) : max(self._end[k] - first, 0)] = NO_LOSS
            k += 1

    def _hidden_before(self, at: Ints) -> Ints:
        if not len(self._begin):
            return np.zeros(len(at), np.int64)
        k = np.searchsorted(self._begin, at, "right") - 1
        inside = np.minimum(at, self._end[k]) - self._begin[k]
        return np.where(k < 0, 0, self._before[k] + inside)


def _check_size(split: Split, window: int, packing: Packing) -> None:
    if not split.tokens:
        raise DataError(f"the {split.name} split is empty", expected="at least one document")
    if packing == "stream" and split.tokens < window:
        raise DataError(
            f"the {split.name} split is smaller than one window",
            got=f"{split.tokens} tokens",
            expected=f"at least window={window}",
            hint=f'window={split.tokens} or less, packing="documents" (which pads), or more text',
        )


def _stream_cut(split: Split, window: int) -> Ints:
    """The stream every `window` tokens: [W, 2] of (start, length); the last one may be shorter."""
    starts = np.arange(0, split.tokens, window, dtype=np.int64)
    return np.stack([starts, np.minimum(window, split.tokens - starts)], axis=1)


def _documents_cut(split: Split, window: int) -> Ints:
    """Each document every `window` tokens: [P, 2] of (start, length)."""
    starts, lengths = split.starts[:-1], np.diff(split.starts)
    counts = -(-lengths // window)
    document = np.repeat(np.arange(len(starts)), counts)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * window
    return np.stack([starts[document] + offset, np.minimum(window, lengths[document] - offset)], axis=1)


def _one_each(pieces: Ints) -> tuple[Ints, Offsets]:
    return pieces, np.arange(len(pieces) + 1, dtype=np.int64)


def _packed(pieces: Ints, window: int) -> tuple[Ints, Offsets]:
    """Put pieces into windows: the pieces in the order of their windows [P, 2], and where each window begins
    among them [W + 1]."""
    of = best_fit(pieces[:, 1], window)
    order = np.argsort(of, kind="stable")
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(of))])
    return pieces[order], bounds.astype(np.int64)


def best_fit(lengths: Ints, window: int) -> Ints:
    """For each length (1 to `window`) the window that it goes into: best fit, the longest first.

    All pieces of one length are placed at once, and all windows with the same room are one stack, so the time
    is that of window**2 small steps at worst, whatever the number of pieces.
    """
    of = np.empty(len(lengths), np.int64)
    if not len(lengths):
        return of
    order = np.argsort(-lengths, kind="stable")
    room: list[list[Ints]] = [[] for _ in range(window + 1)]  # windows by the room that is left in them
    opened = 0
    sizes, firsts = np.unique(-lengths[order], return_index=True)
    for size, items in zip(-sizes, np.split(order, firsts[1:]), strict=True):
        left = int(size)  # no window with less room can take it, and rooms below were tried before
        while len(items):
            while left <= window and not room[left]:
                left += 1
            if left > window:
                count = -(-len(items) // (window // int(size)))
                free, left = np.arange(opened, opened + count), window
                opened += count
            else:
                free = room[left].pop()
            count = min(len(items), len(free))
            of[items[:count]] = free[:count]
            if count < len(free):
                room[left].append(free[count:])
            room[left - int(size)].append(free[:count])
            items, left = items[count:], int(size)
    return of
