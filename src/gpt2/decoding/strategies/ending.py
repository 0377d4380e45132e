"""What every strategy does besides its own idea: tell when a text ends, report log-probabilities, run several
generators side by side, and choose tokens one by one from scores of its own making.

Knows the contract (tree.py) and no strategy. V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.tree import Answer, Ask, Branch, Emit, Extend, Strategy, Tree, Wait
from gpt2.protocols import FinishReason

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]
    Reals: TypeAlias = npt.NDArray[np.floating]


class Ending:
    """When a text of one request ends."""

    def __init__(self, tree: Tree, params: SamplingParams, ends: frozenset[int]) -> None:
        self.ids = ends | frozenset(params.stop_token_ids)
        """The tokens that end a text."""
        self._tree = tree
        self._ends = ends
        self._most = params.max_new_tokens
        self._texts = bool(params.stop)

    def reason(self, tokens: Sequence[int]) -> FinishReason | None:
        """Why a text ends with the last of `tokens`, all since the prompt; None when it goes on."""
        if tokens[-1] in self._ends:
            return "eos"
        if tokens[-1] in self.ids or (self._texts and self._tree.ended(tokens)):
            return "stop"
        return "length" if len(tokens) >= self._most else None


class Told(NamedTuple):
    """What is reported of one token."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def told(logits: Floats, token: int, params: SamplingParams) -> Told | None:
    """Of a token that follows the model's own logits [V]; None when the request does not ask for it."""
    if params.logprobs is None:
        return None
    logprobs = log_softmax(logits.astype(np.float64))
    best = np.argsort(-logprobs, kind="stable")[: params.logprobs]
    return Told(float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best))


def log_softmax(logits: Reals) -> Reals:
    """In the precision of the logits: float32 is that of transformers, and several times as fast."""
    shifted = logits - logits.max()
    return cast("Reals", shifted - np.log(np.exp(shifted).sum()))


def emit(
    tokens: Sequence[int],
    said: Sequence[Told | None],
    *,
    alternative: int = 0,
    finish: FinishReason | None = None,
    score: float | None = None,
) -> Emit:
    """An Emit of tokens and what told() gave of each."""
    wanted = [one for one in said if one is not None]
    asked = bool(wanted) or not tokens
    return Emit(
        tokens=tokens,
        logprobs=[one.logprob for one in wanted] if asked else None,
        top=[one.top for one in wanted] if asked else None,
        alternative=alternative,
        finish=finish,
        score=score,
    )


def side_by_side(strategies: Sequence[Strategy]) -> Strategy:
    """All of them as one, so that what they wait for is computed together."""
    sends: list[tuple[Strategy, list[Answer] | None]] = [(one, None) for one in strategies]
    try:
        while sends:
            waiting: list[tuple[Strategy, list[Extend]]] = []
            for strategy, answers in sends:
                step = _resume(strategy, answers)
                while isinstance(step, Emit):
                    yield step
                    step = _resume(strategy, None)
                if step is not None:
                    waiting.append((strategy, step.extensions))
            sends = []
            if waiting:
                got = cast("list[Answer]", (yield Wait([one for _, many in waiting for one in many])))
                for strategy, many in waiting:
                    sends.append((strategy, got[: len(many)]))
                    got = got[len(many) :]
    finally:
        for strategy in strategies:
            strategy.close()


def _resume(strategy: Strategy, answers: list[Answer] | None) -> Wait | Emit | None:
    try:
        return strategy.send(answers)
    except StopIteration:
        return None


class Stream(NamedTuple):
    """What one_by_one() needs to know of a strategy."""

    ask: Ask
    """For each branch, after each token."""
    scores: Callable[[list[Answer]], Floats]
    """From the answers of all branches to scores [V], from which the rules of the request choose."""


def one_by_one(
    tree: Tree, params: SamplingParams, ends: frozenset[int], prompts: Sequence[Sequence[int]], stream: Stream
) -> Strategy:
    """The `n` texts of a request, token by token, from scores that are made of the answers of several
    branches, one for each of `prompts`. The first branch is the text: its answers' logits are the model's."""
    first = [tree.open(prompt_length=len(prompt)) for prompt in prompts]
    answers = cast(
        "list[Answer]",
        (yield Wait([Extend(b, p, stream.ask) for b, p in zip(first, prompts, strict=True)])),
    )
    texts = [first] + [[b.fork(alternative=k) for b in first] for k in range(1, params.n)]
    yield from side_by_side(
        [_text(tree, params, ends, branches, answers, stream, k) for k, branches in enumerate(texts)]
    )


def _text(
    tree: Tree,
    params: SamplingParams,
    ends: frozenset[int],
    branches: list[Branch],
    answers: list[Answer],
    stream: Stream,
    alternative: int,
) -> Strategy:
    ending = Ending(tree, params, ends)
    tokens: list[int] = []
    while True:
        if any(answer.full for answer in answers):
            yield emit([], [], alternative=alternative, finish="context")
            return
        token = tree.choose(stream.scores(answers), branches[0]).token
        tokens.append(token)
        finish = ending.reason(tokens)
        said = told(last_row(answers[0]), token, params)
        yield emit([token], [said], alternative=alternative, finish=finish)
        if finish is not None:
            for branch in branches:
                branch.drop()
            return
        waited = yield Wait([Extend(branch, [token], stream.ask) for branch in branches])
        answers = cast("list[Answer]", waited)


def last_row(answer: Answer) -> Floats:
    """The logits [V] after the last token."""
    return cast("Floats", cast("Floats", answer.logits)[-1])
