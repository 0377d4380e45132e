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
from gpt2.decoding.strategies import strategy_for
from gpt2.decoding.tree import Answer, Choice, Emit, Extend, Wait


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
    """`logits` gives [V] after ids; `hidden` [T, C] after LN_f; `layer` logits [V] of the stream after k
    blocks; `text` the bytes of tokens."""

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
        assert mask is None
        params, history, generated = self._state(branch)
        token = sampling.next_token(
            logits, params, history=history, generated=generated, alternative=branch.alternative
        )
        logprobs = sampling.log_softmax(logits)
        best = np.argsort(-logprobs, kind="stable")[: params.logprobs or 0]
        return Choice(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best))

    def _state(self, branch: FakeBranch) -> tuple[SamplingParams, list[int], int]:
        stops = tuple(self.ends | set(branch.params.stop_token_ids))
        generated = branch.length - (branch.prompt_length or 0)
        return branch.params.replace(stop_token_ids=stops), branch.tokens, generated

    def answer(self, extension: Extend) -> Answer:
        branch: Any = extension.branch
        ask = extension.ask
        assert not branch.dropped
        assert len(extension.tokens) > 0
        assert ask.kind != "choices" or (ask.drafts == 0 and ask.mask is None)
        if branch.length + len(extension.tokens) > self.window:
            return Answer(full=True)
        branch.tokens += list(extension.tokens)
        if branch.prompt_length is None:
            branch.prompt_length = branch.length
        self.extended += 1
        logits = self._logits(branch.tokens)
        made: dict[str, Any] = {}
        if ask.kind == "choices":
            made["choices"] = (self.choose(logits, branch),)
        elif ask.kind == "candidates":
            scores = self.rules(logits, branch, normalise=ask.normalise, draw_rules=False)
            order = np.argsort(-scores, kind="stable")[: ask.count]
            order = order[np.isfinite(scores[order])]
            made |= {"ids": order.astype(np.int32), "scores": scores[order]}
        else:
            made["logits"] = np.stack([np.full_like(logits, np.nan)] * (ask.rows - 1) + [logits])
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
    pieces: int = 0
    finish: str | None = None
    score: float | None = None


def run(tree: FakeTree, prompt: Sequence[int]) -> list[Text]:
    """Drives the strategy that the tree's params ask for to its end."""
    make = strategy_for(tree.params)
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
            text.pieces += 1
            text.finish, text.score = step.finish, step.score
        else:
            assert isinstance(step, Wait)
            assert len({id(e.branch) for e in step.extensions}) == len(step.extensions) > 0
            answers = [tree.answer(extension) for extension in step.extensions]
    assert all(text.finish is not None for text in texts)
    return texts
