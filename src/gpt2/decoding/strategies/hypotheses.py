"""The complete texts of a group of beams, kept as transformers 4 keeps them (diverse and constrained beams).

It differs from beams.py in small things that change results: a text is compared when it comes, beams that go
on are complete only at the very end, and the guess whether better ones can come takes the best continuation,
ended or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.frontier import Candidate, Finished, Frontier

if TYPE_CHECKING:
    import numpy as np


class Hypotheses:
    """At most `width` of them."""

    def __init__(self, width: int, params: SamplingParams) -> None:
        self.texts: list[Finished] = []
        self._width = width
        self._params = params

    def add(self, text: Finished) -> None:
        if len(self.texts) == self._width:
            worst = min(range(self._width), key=lambda at: self.texts[at].score)
            if text.score <= self.texts[worst].score:
                return
            del self.texts[worst]
        self.texts.append(text)

    def is_done(self, best: np.float32, length: int) -> bool:
        """best: the sum of the best continuation, of `length` tokens."""
        params = self._params
        if len(self.texts) < self._width:
            return False
        if params.early_stopping is True:
            return True
        far = params.early_stopping == "never" and params.length_penalty > 0
        reach = params.max_new_tokens if far else length
        return bool(min(t.score for t in self.texts) >= float(best) / reach**params.length_penalty)


def ranked(texts: list[Finished]) -> list[Finished]:
    """The best first; of equals the one that came last, as in transformers."""
    return sorted(texts, key=lambda text: text.score)[::-1]


def live_of(
    frontier: Frontier,
    best: Sequence[Candidate],
    width: int,
    add: Callable[[Finished], None],
    may_end: Callable[[Candidate], bool] = lambda _: True,
) -> list[Candidate]:
    """The first `width` of the candidates that do not end their text. Of the first `width` of all, those that
    do, and may, are handed to `add`."""
    live: list[Candidate] = []
    for rank, candidate in enumerate(best):
        finish = frontier.ending.reason(frontier.text(candidate))
        if finish in ("eos", "stop"):
            if rank < width and may_end(candidate):
                add(frontier.finished(candidate, finish))
        elif len(live) < width:
            live.append(candidate)
    return live
