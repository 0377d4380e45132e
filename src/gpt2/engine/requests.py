"""One prompt in the engine, however it is decoded: events of a mailbox in, chunks out.

A plain request's tokens are chosen by the engine itself, one after the other; a driven one runs a strategy
(decoding/tree.py). Whoever reads a mailbox keeps a Requests and hands it the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias, cast

from gpt2 import _native
from gpt2.decoding.tree import Emit
from gpt2.engine.branches import BranchEvent, Driver, NativeTree, unfinished
from gpt2.engine.run import Event, Run
from gpt2.protocols import Chunk

Key: TypeAlias = tuple[int, int]
"""A mailbox's place in its reader's Post and a request's number there."""

Chunks: TypeAlias = list[tuple[int, Chunk]]
"""(prompt index, chunk), in the order in which they became certain."""


class Request(Protocol):
    """One prompt that is being generated, all its alternatives."""

    keys: list[Key]
    """By which its events are known; the first is the model's."""
    slow: bool
    """Its steps run a caller's code, which may take any time."""

    @property
    def live(self) -> int:
        """Alternatives that have not ended."""
        ...

    def start(self) -> Chunks: ...

    def accept(self, key: Key, event: Event | BranchEvent) -> Chunks:
        """Raises the error of the request; it has ended then."""
        ...

    def close(self) -> None:
        """Give up the rest."""
        ...


class PlainRequest:
    """A request that was submitted."""

    slow = False

    def __init__(self, mailbox: _native.Mailbox, number: int, runs: Iterable[Run]) -> None:
        self.keys = [(0, number)]
        self._mailbox = mailbox
        self._runs = {run.index: run for run in runs}

    @property
    def live(self) -> int:
        return len(self._runs)

    def start(self) -> Chunks:
        return []

    def accept(self, key: Key, event: Event | BranchEvent) -> Chunks:
        run = self._runs.get(event[1])
        if run is None:
            return []  # a stop string ended it before the engine knew
        try:
            chunk = run.accept(cast(Event, event))
        except BaseException:
            self.close()
            raise
        if run.finish is not None:
            del self._runs[run.index]
            self._mailbox.cancel(self.keys[0][1], run.index)
        return [(run.prompt_index, chunk)]

    def close(self) -> None:
        self._runs.clear()
        self._mailbox.cancel(self.keys[0][1])


class DrivenRequest:
    """A request that a strategy decodes."""

    def __init__(
        self, trees: Sequence[NativeTree], driver: Driver, runs: Iterable[Run], *, slow: bool
    ) -> None:
        self.keys = [(tree.place, tree.request) for tree in trees]
        self.slow = slow
        self._trees = dict(zip(self.keys, trees, strict=True))
        self._driver = driver
        self._runs = {run.index: run for run in runs}

    @property
    def live(self) -> int:
        return len(self._runs)

    def start(self) -> Chunks:
        return self._chunks(self._driver.start)

    def accept(self, key: Key, event: Event | BranchEvent) -> Chunks:
        if not self._runs:
            return []
        return self._chunks(lambda: self._driver.accept(self._trees[key], cast(BranchEvent, event)))

    def close(self) -> None:
        self._runs.clear()
        self._driver.close()
        for tree in self._trees.values():
            tree.mailbox.cancel(tree.request)

    def _chunks(self, go_on: Callable[[], Sequence[Emit]]) -> Chunks:
        try:
            out: Chunks = []
            for emit in go_on():
                run = self._runs.get(emit.alternative)
                if run is None:
                    continue  # a stop string ended it before the strategy knew
                # A strategy that ranks its texts numbers them by rank, not by what they draw by.
                slides = self._trees[self.keys[0]].slides(
                    None if emit.score is not None else emit.alternative
                )
                out.append((run.prompt_index, run.emitted(emit, slides)))
                if run.finish is not None:
                    del self._runs[run.index]
            if self._driver.ended and self._runs:
                raise unfinished(min(self._runs))
        except BaseException:
            self.close()
            raise
        if not self._runs:
            self.close()
        return out
