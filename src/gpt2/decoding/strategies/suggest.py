"""Several short continuations of one prefix, for autocomplete: the strategy behind LanguageModel.suggest().

The n most probable first tokens each begin an alternative, which then goes on greedily, all of them in one
batch; so the first step costs what one continuation costs, and the others little more. Alternatives whose
text is the same (tokens can spell a text in several ways) count once, and the next token has its turn.
Beams would find texts of a higher probability, but nearly the same ones: they share their first words, where
who types wants to choose between words (docs/decisions/structure.md has the numbers).

Knows tokens as bytes, and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2.decoding.sampling import log_softmax
from gpt2.decoding.strategies.healing import Healing, TokenIndex
from gpt2.decoding.strategies.masked import allowed
from gpt2.decoding.tree import Ask, Emit, Extend, MakeStrategy, Wait

if TYPE_CHECKING:
    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Bits, Branch, Floats, Strategy, Tree
    from gpt2.protocols import FinishReason


@dataclass(eq=False)
class Prefix:
    """A branch that stands behind a prompt, and what the model says comes next."""

    branch: Branch
    logits: Floats | None = None
    """[V]; None where they are to be computed."""


@dataclass(eq=False)
class _Text:
    """One alternative."""

    branch: Branch
    healing: Healing
    tokens: list[int]
    logprobs: list[float]
    ended: bool = False

    @property
    def total(self) -> float:
        return float(sum(self.logprobs))


@dataclass(eq=False)
class _Child:
    """A token that may follow an alternative."""

    parent: _Text
    token: int
    logprob: float

    @property
    def total(self) -> float:
        return self.parent.total + self.logprob

    def text(self) -> _Text:
        """The alternative that it makes, in a branch of its own."""
        parent = self.parent
        healing = parent.healing.fork()
        healing.push(self.token)
        tokens, logprobs = [*parent.tokens, self.token], [*parent.logprobs, self.logprob]
        return _Text(parent.branch.fork(), healing, tokens, logprobs)


def suggesting(index: TokenIndex, rest: bytes, prefix: Prefix | None = None) -> MakeStrategy:
    """The strategy: n distinct texts that begin with `rest`, best first; the text after `rest` is not empty.

    prefix: a branch that has the beginning of the prompt; it is left standing behind the prompt, with its
    logits. The strategy's own prompt is then what is missing: nothing, if the prefix has its logits.

    It wants params that are greedy and ask for log-probabilities. Alternatives that are not there (of a tiny
    vocabulary) end without a token.
    """

    def strategy(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
        found: dict[bytes, _Text] = {}
        start = prefix if prefix is not None else Prefix(tree.open(prompt_length=len(prompt)))
        if start.logits is None:
            (answer,) = (yield Wait([Extend(start.branch, prompt, Ask("logits"))])) or []
            start.logits = answer.logits[-1] if answer.logits is not None else None  # the window is full
        queue: list[_Child] = []
        yield from _begin(queue, start, Healing(index, rest), params, index, ends)
        while queue and len(found) < params.n:
            missing = params.n - len(found)
            batch, queue = [child.text() for child in queue[:missing]], queue[missing:]
            yield from _finish(batch, params.max_new_tokens, ends)
            for text in batch:
                spelt = b"".join(index.bytes_of(token) or b"" for token in text.tokens)
                if len(spelt) > len(rest):
                    found.setdefault(spelt, text)
        best = sorted(found.values(), key=lambda text: -text.total)
        for k in range(params.n):
            yield _emit(k, best[k] if k < len(best) else None, ends)

    return strategy


def _begin(
    queue: list[_Child],
    prefix: Prefix,
    healing: Healing,
    params: SamplingParams,
    index: TokenIndex,
    ends: frozenset[int],
) -> Strategy:
    """Put the beginnings into the queue, most probable first: the first tokens, or where healing leaves fewer
    than n of them, first tokens with their next ones."""
    if prefix.logits is None:
        return
    root = _Text(prefix.branch, healing, [], [])
    first = _best(prefix.logits, _open(healing, index, ends), 4 * params.n)
    queue[:] = [_Child(root, token, logprob) for token, logprob in first]
    for _ in range(1, params.max_new_tokens):
        if len(queue) >= params.n or not queue:
            return
        texts = [child.text() for child in queue]
        answers = yield Wait([Extend(text.branch, text.tokens[-1:], Ask("logits")) for text in texts])
        children = [
            _Child(text, token, logprob)
            for text, answer in zip(texts, answers or [], strict=True)
            if answer.logits is not None  # else the window is full
            for token, logprob in _best(answer.logits[-1], _open(text.healing, index, ends), 4 * params.n)
        ]
        queue[:] = sorted(children, key=lambda child: -child.total)


def _best(logits: Floats, mask: Bits, count: int) -> list[tuple[int, float]]:
    """The most probable of the allowed tokens, with their log-probabilities; ties by the lower id."""
    ids = allowed(mask)
    scores = logits[ids]
    if ids.size > count:
        ids = ids[scores >= np.partition(scores, ids.size - count)[ids.size - count]]
    logprobs = log_softmax(logits)[ids]
    order = np.argsort(-logprobs, kind="stable")[:count]
    return [(int(ids[i]), float(logprobs[i])) for i in order]


def _open(healing: Healing, index: TokenIndex, ends: frozenset[int]) -> Bits:
    """What may come where alternatives part: any token with bytes that leads to the rest; never the end."""
    mask = healing.mask()
    mask = index.spelled.copy() if mask is None else mask
    for end in ends:
        mask[end // 32] &= ~np.uint32(1 << end % 32)
    return mask


def _finish(texts: list[_Text], count: int, ends: frozenset[int]) -> Strategy:
    """Go on greedily up to `count` tokens, or the end of the text."""
    while live := [text for text in texts if not text.ended and len(text.tokens) < count]:
        answers = yield Wait(
            [Extend(text.branch, text.tokens[-1:], Ask("choices", mask=text.healing.mask())) for text in live]
        )
        for text, answer in zip(live, answers or [], strict=True):
            if answer.full:
                text.ended = True
                continue
            choice = answer.choices[0]
            text.tokens.append(choice.token)
            text.logprobs.append(choice.logprob)
            text.ended = choice.token in ends
            if not text.ended:
                text.healing.push(choice.token)
    for text in texts:
        text.branch.drop()


def _emit(k: int, text: _Text | None, ends: frozenset[int]) -> Emit:
    if text is None:
        return Emit(tokens=[], alternative=k, finish="stop", score=-math.inf)
    finish: FinishReason = "eos" if text.tokens[-1] in ends else "length"
    return Emit(
        tokens=text.tokens,
        logprobs=text.logprobs,
        top=[()] * len(text.tokens),
        alternative=k,
        finish=finish,
        score=text.total,
    )
