"""An engine driven by chance: whatever was submitted, cancelled, paused, closed and asked for before, each
result is the one that the request gets alone, and at the end the memory is as empty as at the beginning.

The scheduler has a machine of its own (native/tests/scheduler_test.cc), which sees every book; this one sees
what a caller sees, through the real engine. `--slow` runs it for minutes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import SamplingParams, _native, errors
from gpt2.engine.native_params import native_params

V, WINDOW = 151, 140
BOXES = 3
MAX_BATCH, MAX_QUEUE = 4, 6
HANGS = 60
"""Seconds after which a wait counts as one that never ends: thousands of times what a step takes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2(
        n_embd=44, n_head=4, n_layer=2, n_positions=WINDOW, vocab_size=V, initializer_range=0.3
    )
    return saved(model, tmp_path_factory.mktemp("machine"))


def tokens(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, V, length).tolist())


# Few seeds: prompts begin alike. The lengths are those of the edges of blocks, and of a window that fills up.
lengths = st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 138, 139, 140]) | st.integers(1, 140)
prompts = st.builds(tokens, lengths, st.integers(0, 2))
options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.8, 1.5]),
        "top_k": st.sampled_from([0, 5]),
        "top_p": st.sampled_from([1.0, 0.9]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 3),
        "logprobs": st.just(2),
    }
).map(lambda found: tuple(found.items()))
ways = st.fixed_dictionaries(
    {
        "alternatives": st.integers(1, 3),
        "slide": st.booleans(),
        "share_prefix": st.booleans() | st.just(True),
        "salt": st.sampled_from(["", "a", "b"]),
        "unread": st.sampled_from([1, 3, 256]),
    }
)


@dataclass
class Asked:
    """A request, and what has come of it."""

    ids: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    max_new_tokens: int
    slide: bool
    got: dict[int, list[Any]]
    live: set[int] = field(default_factory=set)
    paused: bool = False


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A wait that never ends is a failure that says so."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"the engine did not answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def submit(box: Any, asked: Asked, **how: Any) -> int:
    given = dict(asked.options)
    native = native_params(SamplingParams(**given), given["seed"], frozenset())
    ids = np.asarray(asked.ids, dtype=np.int32)
    number: int = box.submit(ids, native, asked.max_new_tokens, slide=asked.slide, **how)
    return number


class EngineMachine(RuleBasedStateMachine):
    """`folder`, `reference` and `known` (what requests get alone) are set on the subclass that runs."""

    folder: Path
    reference: gpt2.LanguageModel
    known: dict[Any, list[Any]]

    @initialize(
        blocks=st.integers(3, 8),
        step_tokens=st.sampled_from([1, 5, 64, 256]),
        threads=st.sampled_from([1, 2]),
        prefix_cache=st.booleans() | st.just(True),
        widths=st.sampled_from(["float32", "int8"]),
    )
    def load(self, blocks: int, step_tokens: int, threads: int, prefix_cache: bool, widths: Any) -> None:
        self.widths = widths
        self.how: dict[str, Any] = {"weights": widths, "threads": threads}
        single = self.single()
        self.lm = gpt2.load(
            self.folder, **self.how, step_tokens=step_tokens, prefix_cache=prefix_cache, max_batch=MAX_BATCH,
            max_queue=MAX_QUEUE, cache_bytes=blocks * single.stats().block_bytes,
        )  # fmt: skip
        assert self.lm.stats().blocks == blocks
        self.boxes = [_native.Mailbox(self.lm._native) for _ in range(BOXES)]
        self.asked: list[dict[int, Asked]] = [{} for _ in range(BOXES)]

    def single(self) -> gpt2.LanguageModel:
        key = ("engine", self.widths)
        if key not in self.known:
            self.known[key] = gpt2.load(  # type: ignore[assignment]
                self.folder, weights=self.widths, threads=1, prefix_cache=False
            )
        return self.known[key]  # type: ignore[return-value]

    def alone(self, asked: Asked, alternative: int) -> list[Any]:
        key = (self.widths, asked.ids, asked.options, asked.max_new_tokens, asked.slide, alternative)
        if key not in self.known:
            box = _native.Mailbox(self.single()._native)
            number = submit(box, asked, alternatives=alternative + 1, share_prefix=False)
            for other in range(alternative):
                box.cancel(number, other)
            got: list[Any] = []
            while events := box.wait():
                got += [rest for _, k, *rest in events if k == alternative]
            self.known[key] = got
        return self.known[key]

    def live(self) -> list[tuple[int, int]]:
        """(mailbox, request) of those that go on."""
        return [(b, n) for b, many in enumerate(self.asked) for n, asked in many.items() if asked.live]

    def readable(self) -> list[int]:
        """Mailboxes in which something is to come."""
        return [b for b, n in self.live() if not self.asked[b][n].paused]

    @rule(
        at=st.integers(0, BOXES - 1), ids=prompts, options=options, how=ways,
        count=st.sampled_from([1, 2, 9, 30, 100]),
    )  # fmt: skip
    def ask(self, at: int, ids: tuple[int, ...], options: Any, how: dict[str, Any], count: int) -> None:
        how = dict(how)
        asked = Asked(ids, options, count, how.pop("slide"), {k: [] for k in range(how["alternatives"])})
        going = sum(len(self.asked[b][n].live) for b, n in self.live())
        try:
            number = submit(self.boxes[at], asked, **how)
        except errors.Overloaded:
            assert going + how["alternatives"] > MAX_BATCH + MAX_QUEUE
            return
        asked.live = set(asked.got)
        self.asked[at][number] = asked

    @precondition(lambda self: self.readable())
    @rule(data=st.data(), times=st.integers(1, 20))
    def wait(self, data: st.DataObject, times: int) -> None:
        at = data.draw(st.sampled_from(self.readable()))
        for _ in range(times):
            if at in self.readable():
                self.read(at)

    def read(self, at: int) -> None:
        with within(HANGS):
            events = self.boxes[at].wait()
        assert events
        for number, alternative, *rest, error in events:
            assert error is None, error
            asked = self.asked[at][number]
            asked.got[alternative].append([*rest, error])
            if rest[-1] is not None:
                asked.live.discard(alternative)
                assert asked.got[alternative] == self.alone(asked, alternative)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        at, number = data.draw(st.sampled_from(self.live()))
        asked = self.asked[at][number]
        if data.draw(st.booleans()):
            self.boxes[at].cancel(number)
            gone = set(asked.live)
        else:
            gone = {data.draw(st.sampled_from(sorted(asked.live)))}
            self.boxes[at].cancel(number, *gone)
        asked.live -= gone
        for k in gone:  # what had arrived may still be read; all of it is the beginning of what it gets alone
            whole = self.alone(asked, k)
            assert asked.got[k] == whole[: len(asked.got[k])]

    @precondition(lambda self: self.live())
    @rule(data=st.data(), paused=st.booleans())
    def pause(self, data: st.DataObject, paused: bool) -> None:
        at, number = data.draw(st.sampled_from(self.live()))
        self.boxes[at].pause(number, paused)
        self.asked[at][number].paused = paused

    @rule(at=st.integers(0, BOXES - 1), anew=st.booleans())
    def close(self, at: int, anew: bool) -> None:
        self.boxes[at].close()
        assert self.boxes[at].live == 0
        assert self.boxes[at].wait() == []
        self.asked[at] = {}
        if anew:
            self.boxes[at] = _native.Mailbox(self.lm._native)

    @rule(ids=prompts)
    def ask_for_arrays(self, ids: tuple[int, ...]) -> None:
        ours, single = self.lm, self.single()
        assert np.array_equal(ours.logits(ids), single.logits(ids))
        assert np.array_equal(ours.hidden_states(ids), single.hidden_states(ids))

    @rule(ids=prompts)
    def load_another(self, ids: tuple[int, ...]) -> None:
        other = gpt2.load(self.folder, **self.how)
        assert np.array_equal(other.logits(ids[-2:]), self.single().logits(ids[-2:]))

    @rule(number=st.sampled_from([0, 10**6]), at=st.integers(0, BOXES - 1))
    def name_what_is_not_there(self, number: int, at: int) -> None:
        self.boxes[at].cancel(number)
        self.boxes[at].cancel(number, 1)
        self.boxes[at].pause(number, True)

    @rule()
    def look(self) -> None:
        stats = self.lm.stats()
        assert stats.blocks_used + stats.blocks_cached + stats.blocks_free == stats.blocks
        assert stats.running <= MAX_BATCH
        going = stats.waiting + stats.running
        assert going == sum(box.live for box in self.boxes)
        # A step that one mailbox waits for runs the others' requests, too: their last tokens may be unread.
        assert going <= sum(len(self.asked[b][n].live) for b, n in self.live())

    def teardown(self) -> None:
        if not hasattr(self, "asked"):
            return
        for at, number in self.live():
            self.boxes[at].pause(number, False)
            self.asked[at][number].paused = False
        while readable := self.readable():
            self.read(readable[0])
        stats = self.lm.stats()
        assert (stats.waiting, stats.running, stats.blocks_used, stats.errors) == (0, 0, 0, 0)


def run_machine(folder: Path, examples: int, steps: int) -> None:
    class Machine(EngineMachine):
        known: dict[Any, Any] = {}  # noqa: RUF012 - of this run

    Machine.folder = folder
    how = settings(max_examples=examples, stateful_step_count=steps)
    try:
        run_state_machine_as_test(Machine, settings=how)  # type: ignore[no-untyped-call]
    finally:
        Machine.known.clear()  # the engines in it


def test_whatever_happens_each_gets_what_it_gets_alone(folder: Path) -> None:
    run_machine(folder, 25, 30)


@pytest.mark.slow
def test_whatever_happens_for_long(folder: Path) -> None:
    run_machine(folder, 1500, 60)
