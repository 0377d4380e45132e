"""Contrastive search (arXiv:2202.06417): probable tokens that do not repeat what is there.

Of the top_k most probable tokens the one is taken that has the largest

    (1 - penalty_alpha) * probability - penalty_alpha * likeness

where likeness is the largest cosine between the final hidden state at the token and those at all tokens
before it. Each candidate is computed on a branch of its own, so that a token of text costs top_k of the
model. Where the window is full the text ends, since no likeness can be computed.

Oracle: transformers 4.49, penalty_alpha and top_k. Letters: T tokens, C = n_embd, V vocabulary size, K =
top_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending, emit, last_row, told
from gpt2.decoding.tree import Answer, Ask, Branch, Extend, Strategy, Tree, Wait

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]
    Ids: TypeAlias = npt.NDArray[np.intp]


def contrastive(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    ending = Ending(tree, params, ends)
    branch = tree.open()
    everything = Ask("logits", rows=len(prompt), hidden=True)
    (answer,) = cast("list[Answer]", (yield Wait([Extend(branch, prompt, everything)])))
    seen = Directions(_unit(cast("Floats", answer.hidden)))
    tokens: list[int] = []
    while True:
        logits = last_row(answer)
        ids, probabilities = _most_probable(tree.rules(logits, branch, draw_rules=False), params.top_k)
        branches = _fork(branch, len(ids))
        asked = Ask("logits", hidden=True)
        waited = yield Wait([Extend(b, [int(i)], asked) for b, i in zip(branches, ids, strict=True)])
        answers = cast("list[Answer]", waited)
        if any(one.full for one in answers):
            yield emit([], [], finish="context")
            return
        directions = _unit(np.stack([cast("Floats", one.hidden)[-1] for one in answers]))  # [K, C]
        at = _best(probabilities, seen.likeness(directions), params.penalty_alpha or 0.0)
        token, said = int(ids[at]), told(logits, int(ids[at]), params)
        seen.add(directions[at])
        tokens.append(token)
        finish = ending.reason(tokens)
        yield emit([token], [said], finish=finish)
        for k, one in enumerate(branches):
            if k != at or finish is not None:
                one.drop()
        if finish is not None:
            return
        branch, answer = branches[at], answers[at]


class Directions:
    """The hidden states of a text [T, C], each of length 1."""

    def __init__(self, first: Floats) -> None:
        self._rows = first
        self._used = len(first)

    def add(self, row: Floats) -> None:
        if self._used == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._used] = row
        self._used += 1

    def likeness(self, candidates: Floats) -> Floats:
        """The largest cosine of each of [K, C] with one of these: [K].

        One product per candidate, each in the same order whatever K is.
        """
        rows = self._rows[: self._used]
        return np.array([np.einsum("tc,c->t", rows, one).max() for one in candidates], dtype=np.float32)


def _unit(states: Floats) -> Floats:
    length = np.sqrt(np.einsum("tc,tc->t", states, states))
    return cast("Floats", states / np.maximum(length, np.float32(1e-30))[:, None])


def _most_probable(scores: Floats, k: int) -> tuple[Ids, Floats]:
    """Ids [K] of the largest, best first, ties by the lower id, and their probabilities. Fewer where rules
    leave fewer."""
    k = min(k, int(np.isfinite(scores).sum()))
    near = np.flatnonzero(scores >= np.partition(scores, scores.size - k)[scores.size - k])
    ids = near[np.argsort(-scores[near], kind="stable")][:k]
    largest = scores[ids[0]]
    weights = np.exp(scores - largest)
    return ids, weights[ids] / weights.sum()


def _best(probabilities: Floats, likeness: Floats, alpha: float) -> int:
    return int(np.argmax((1.0 - alpha) * probabilities - alpha * likeness))


def _fork(branch: Branch, count: int) -> list[Branch]:
    """`count` branches that stand where this one stands, itself among them."""
    return [branch.fork() for _ in range(count - 1)] + [branch]
