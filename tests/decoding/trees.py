"""A tree (decoding/tree.py) that is a function from ids to logits, and a driver for it: a test double of the
protocol, so that strategies are tested without an engine, and the engine against something simple.

Every extension computes its whole text again. The rules are those of decoding/sampling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2.decoding import SamplingParams, sampling
from gpt2.decoding.strategies.masked import allowed, scored
from gpt2.decoding.strategies.table import strategy_for
from gpt2.decoding.tree import Answer, Choice, Emit, Extend, MakeStrategy, Wait


@dataclass
class FakeBranch:
    params: SamplingParams
    alternative: int
    prompt_length: int | None
    tokens: list[int] = field(default_factory=list)
    dropped: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    def fork(self, *, alternative: int | None = None) -> FakeBranch:
        assert not self.dropped
        own = self.alternative if alternative is None else alternative
        return FakeBranch(self.params, own, self.prompt_length, list(self.tokens))

    def rewind(self, length: int) -> None:
        del self.tokens[length:]

    def drop(self) -> None:
        self.dropped = True


class FakeTree:
    """`logits` gives the last rows [R, V] of those after ids, at least one; `hidden` [T, C] after LN_f;
    `layer` logits [V] of the stream after k blocks; `text` the bytes of tokens."""

    def __init__(
        self,
        params: SamplingParams,
        ends: frozenset[int],
        vocab_size: int,
        logits: Callable[[Sequence[int]], Any],
        *,
        hidden: Callable[[Sequence[int]], Any] | None = None,
        layer: Callable[[Sequence[int], int], Any] | None = None,
        text: Callable[[Sequence[int]], bytes] | None = None,
        window: int = 10**9,
    ) -> None:
        self.vocab_size = vocab_size
        self.params = params
        self.ends = ends
        self.window = window
        self.extended = 0
        self.waits = 0
        self._logits, self._hidden, self._layer, self._text = logits, hidden, layer, text

    def open(
        self, params: SamplingParams | None = None, *, alternative: int = 0, prompt_length: int | None = None
    ) -> FakeBranch:
        return FakeBranch(params or self.params, alternative, prompt_length)

    def ended(self, tokens: Sequence[int]) -> bool:
        assert self._text is not None
        return any(stop.encode() in self._text(tokens) for stop in self.params.stop)

    def rules(
        self, logits: Any, branch: FakeBranch, *, normalise: bool = False, draw_rules: bool = True
    ) -> Any:
        assert logits.dtype == np.float32
        scores = sampling.log_softmax(logits).astype(np.float32) if normalise else logits
        scores = sampling.apply_history_rules(scores, *self._state(branch))
        return sampling.apply_draw_rules(scores, branch.params) if draw_rules else scores

    def choose(self, logits: Any, branch: FakeBranch, *, mask: Any = None) -> Choice:
        params, history, generated = self._state(branch)
        open_to = logits
        if mask is not None:
            open_to = np.full_like(logits, -np.inf)
            open_to[allowed(mask)] = logits[allowed(mask)]
        token = sampling.next_token(
            open_to, params, history=history, generated=generated, alternative=branch.alternative
        )
        return scored(logits, token, params.logprobs or 0)

    def _state(self, branch: FakeBranch) -> tuple[SamplingParams, list[int], int]:
        stops = tuple(self.ends | set(branch.params.stop_token_ids))
        generated = branch.length - (branch.prompt_length or 0)
        return branch.params.replace(stop_token_ids=stops), branch.tokens, generated

    def answer(self, extension: Extend) -> Answer:
        branch: Any = extension.branch
        ask = extension.ask
        assert not branch.dropped
        assert len(extension.tokens) > 0
        assert ask.drafts == 0
        if branch.length + len(extension.tokens) > self.window:
            return Answer(full=True)
        branch.tokens += list(extension.tokens)
        if branch.prompt_length is None:
            branch.prompt_length = branch.length
        self.extended += 1
        rows = self._logits(branch.tokens)
        logits = rows[-1]
        made: dict[str, Any] = {}
        if ask.kind == "choices":
            made["choices"] = (self.choose(logits, branch, mask=ask.mask),)
        elif ask.kind == "candidates":
            assert ask.mask is None
            scores = self.rules(logits, branch, normalise=ask.normalise, draw_rules=False)
            order = np.argsort(-scores, kind="stable")[: ask.count]
            order = order[np.isfinite(scores[order])]
            made |= {"ids": order.astype(np.int32), "scores": scores[order]}
        else:
            unknown = np.full((max(0, ask.rows - len(rows)), len(logits)), np.nan, np.float32)
            made["logits"] = np.concatenate([unknown, rows[-ask.rows :]])
        if ask.hidden:
            assert self._hidden is not None
            made["hidden"] = self._hidden(branch.tokens)[-ask.rows :]
        if ask.layers:
            assert self._layer is not None
            made["layers"] = np.stack([self._layer(branch.tokens, k)[None] for k in ask.layers])
        return Answer(**made)


@dataclass
class Text:
    """One alternative, put together from what was emitted."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Any] = field(default_factory=list)
    pieces: int = 0
    finish: str | None = None
    score: float | None = None


def run(tree: FakeTree, prompt: Sequence[int], make: MakeStrategy | None = None) -> list[Text]:
    """Drives a strategy (None: the one that the tree's params ask for) to its end."""
    make = make or strategy_for(tree.params)
    assert make is not None
    strategy = make(tree, list(prompt), tree.params, tree.ends)
    texts = [Text() for _ in range(tree.params.n)]
    answers = None
    while True:
        try:
            step = strategy.send(answers)
        except StopIteration:
            break
        answers = None
        if isinstance(step, Emit):
            text = texts[step.alternative]
            assert text.finish is None, "nothing may come after the end"
            text.tokens += step.tokens
            text.logprobs += step.logprobs or []
            text.top += step.top or []
            text.pieces += 1
            text.finish, text.score = step.finish, step.score
        else:
            assert isinstance(step, Wait)
            assert len({id(e.branch) for e in step.extensions}) == len(step.extensions) > 0
            tree.waits += 1
            answers = [tree.answer(extension) for extension in step.extensions]
    assert all(text.finish is not None for text in texts)
    return texts
