"""Best-of-n: draw best_of alternatives, return the n whose tokens are on average the most probable.

The alternatives are those that n=best_of gives, token by token; only which are returned, and in which order,
is chosen here: by the mean of the model's own log-probabilities (temperature 1, no rules), so that length
alone does not decide. Nothing is certain before the last one has ended, so nothing is emitted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending, Told, emit, last_row
from gpt2.decoding.tree import Answer, Ask, Branch, Choice, Extend, Strategy, Tree, Wait
from gpt2.protocols import FinishReason


@dataclass(slots=True)
class _Text:
    branch: Branch
    tokens: list[int] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def mean(self) -> float:
        return sum(one.logprob for one in self.told) / len(self.told)

    def add(self, choice: Choice, ending: Ending) -> None:
        self.tokens.append(choice.token)
        self.told.append(Told(choice.logprob, choice.top))
        self.finish = ending.reason(self.tokens)


def best_of(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    ending = Ending(tree, params, ends)
    # The engine gives the log-probability of a choice only where it is asked for.
    drawn = params.replace(best_of=None, n=1, logprobs=params.logprobs or 0)
    first = tree.open(drawn)
    (answer,) = cast("list[Answer]", (yield Wait([Extend(first, prompt, Ask("logits"))])))
    count = cast(int, params.best_of)
    texts = [_Text(first)] + [_Text(first.fork(alternative=k)) for k in range(1, count)]
    for text in texts:
        text.add(tree.choose(last_row(answer), text.branch), ending)
    while going := [text for text in texts if text.finish is None]:
        waited = yield Wait([Extend(t.branch, t.tokens[-1:], Ask("choices")) for t in going])
        for text, answer in zip(going, cast("list[Answer]", waited), strict=True):
            if answer.full:
                text.finish = "context"
            else:
                text.add(answer.choices[0], ending)
        for text in going:
            if text.finish is not None:
                text.branch.drop()
    ranked = sorted(texts, key=lambda text: -text.mean)[: params.n]
    for k, text in enumerate(ranked):
        said = text.told if params.logprobs is not None else [None] * len(text.tokens)
        yield emit(text.tokens, said, alternative=k, finish=text.finish, score=text.mean)
