"""A tree (gpt2.decoding.tree) over any function from ids to logits, and a driver that runs a strategy on it.

Nothing is cached and nothing is fast: each extension computes its whole text anew, and tokens are chosen by
the readable rules of gpt2.decoding.sampling. It is the truth that the engine's branches are held to, and it
counts what is computed.

T tokens, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2.decoding import SamplingParams
from gpt2.decoding.masked import allowed, scored
from gpt2.decoding.sampling import next_token
from gpt2.decoding.tree import Answer, Ask, Choice, Emit, Extend, MakeStrategy, Wait

Logits = Callable[[list[int]], Any]
"""ids [T] -> [T, V] float32"""


class PlainBranch:
    """A branch is its ids."""

    def __init__(self, alternative: int, prompt_length: int | None, ids: Sequence[int] = ()) -> None:
        self.alternative = alternative
        self.prompt_length = prompt_length
        self.ids = list(ids)

    @property
    def length(self) -> int:
        return len(self.ids)

    def fork(self, *, alternative: int | None = None) -> PlainBranch:
        number = self.alternative if alternative is None else alternative
        return PlainBranch(number, self.prompt_length, self.ids)

    def rewind(self, length: int) -> None:
        del self.ids[length:]

    def drop(self) -> None:
        self.ids.clear()


class PlainTree:
    """The branches of one request."""

    def __init__(
        self, logits: Logits, params: SamplingParams, vocab_size: int, window: int = 1 << 30
    ) -> None:
        self.vocab_size = vocab_size
        self.steps = 0
        self._logits = logits
        self._params = params
        self._window = window

    def open(
        self, params: SamplingParams | None = None, *, alternative: int = 0, prompt_length: int | None = None
    ) -> PlainBranch:
        assert params is None, "branches of other params are not needed here"
        return PlainBranch(alternative, prompt_length)

    def choose(self, logits: Any, branch: Any, *, mask: Any = None) -> Choice:
        own = logits
        if mask is not None:
            logits = np.full_like(own, -np.inf)
            logits[allowed(mask)] = own[allowed(mask)]
        token = next_token(
            logits,
            self._params,
            history=branch.ids,
            generated=len(branch.ids) - branch.prompt_length,
            alternative=branch.alternative,
        )
        return scored(own, token, self._params.logprobs or 0)

    def ended(self, tokens: Sequence[int]) -> bool:
        raise NotImplementedError

    def rules(self, logits: Any, branch: Any, *, normalise: bool = False, draw_rules: bool = True) -> Any:
        raise NotImplementedError

    def answer(self, extension: Extend) -> Answer:
        branch: Any = extension.branch
        ask: Ask = extension.ask
        assert len(extension.tokens) > 0
        if len(branch.ids) + len(extension.tokens) > self._window:
            return Answer(full=True)
        if branch.prompt_length is None:
            branch.prompt_length = len(extension.tokens)
        branch.ids += [int(token) for token in extension.tokens]
        rows = self._logits(branch.ids)
        if ask.kind == "logits":
            return Answer(logits=rows[-ask.rows :])
        assert ask.kind == "choices"
        assert ask.drafts == 0
        return Answer(choices=(self.choose(rows[-1], branch, mask=ask.mask),))


@dataclass
class Written:
    """What a strategy emitted of one alternative."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Any] = field(default_factory=list)
    finish: str | None = None


def run(
    make: MakeStrategy, tree: PlainTree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
) -> list[Written]:
    """Every alternative of one prompt."""
    out = [Written() for _ in range(params.n)]
    strategy = make(tree, prompt, params, ends)
    answers = None
    while True:
        try:
            step = strategy.send(answers)
        except StopIteration:
            return out
        answers = None
        if isinstance(step, Wait):
            tree.steps += 1
            answers = [tree.answer(extension) for extension in step.extensions]
        else:
            assert isinstance(step, Emit)
            _take(out[step.alternative], step)


def _take(written: Written, emit: Emit) -> None:
    assert written.finish is None, "nothing may come after the end"
    written.tokens += emit.tokens
    written.logprobs += emit.logprobs or ()
    written.top += emit.top or ()
    written.finish = emit.finish
