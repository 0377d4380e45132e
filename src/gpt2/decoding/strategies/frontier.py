"""The beams of one request: what they wait for, how they are scored, and how they fork into the next ones.

All forms of beam search (beams.py, diverse.py, constrained.py) stand on this and differ in what they choose.
Scores are sums in float32, as in transformers, whose results they must give.

V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending, Told, emit, last_row, told
from gpt2.decoding.strategies.gumbel import gumbel_noise
from gpt2.decoding.tree import Answer, Ask, Branch, Emit, Extend, Tree, Wait
from gpt2.errors import InvalidRequest
from gpt2.protocols import FinishReason

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(slots=True)
class Beam:
    """One text that goes on."""

    branch: Branch
    tokens: tuple[int, ...]
    """Since the prompt; the branch has yet to take the last one."""
    score: np.float32
    """The sum of its tokens' scores."""
    told: tuple[Told | None, ...] = ()
    state: Any = None
    """What the strategy keeps with it."""
    logits: Floats | None = None
    """[V], where the strategy wants more than candidates."""


class Candidate(NamedTuple):
    """One more token for one of the beams."""

    parent: int
    token: int
    score: np.float32
    """Of the text with the token."""


class Finished(NamedTuple):
    """A text that has ended."""

    tokens: tuple[int, ...]
    score: float
    """The sum, divided by length ** length_penalty."""
    told: tuple[Told | None, ...]
    finish: FinishReason


class Frontier:
    """`rows`: whole rows of logits are wanted, not only the best candidates of each beam. `branch`: where the
    first beam stands, if not at the beginning of the prompt."""

    def __init__(
        self,
        tree: Tree,
        prompt: Sequence[int],
        params: SamplingParams,
        ending: Ending,
        *,
        rows: bool = False,
        branch: Branch | None = None,
    ) -> None:
        self.beams = [Beam(branch or tree.open(), (), np.float32(0.0))]
        self.ending = ending
        self._tree = tree
        self._prompt = prompt
        self._params = params
        self._rows = rows or params.logprobs is not None or params.do_sample is True
        self._certain = 0  # tokens that were emitted

    def wait(self, count: int) -> Wait:
        """Asks for the `count` best tokens of each beam, or for its row. The first time it brings the
        prompt."""
        ask = Ask("logits") if self._rows else Ask("candidates", count=count, normalise=True)
        return Wait([Extend(b.branch, b.tokens[-1:] or self._prompt, ask) for b in self.beams])

    def best(self, answers: Sequence[Answer], count: int) -> list[Candidate]:
        """The `count` best one-token continuations of all beams, best first."""
        if self._rows:
            self.take_rows(answers)
            return best_of_rows([self.scores(at) for at in range(len(self.beams))], count)
        found = [
            Candidate(at, int(id), beam.score + score)
            for at, (beam, answer) in enumerate(zip(self.beams, answers, strict=True))
            for id, score in zip(cast("Any", answer.ids).tolist(), cast("Floats", answer.scores), strict=True)
        ]
        found.sort(key=lambda c: -c.score)
        return found[:count]

    def take_rows(self, answers: Sequence[Answer]) -> None:
        for beam, answer in zip(self.beams, answers, strict=True):
            beam.logits = last_row(answer)

    def scores(self, at: int, *, draw_rules: bool = False) -> Floats:
        """The scores [V] of a beam's text with each token: after the rules; -inf for what they ban."""
        beam = self.beams[at]
        logits = cast("Floats", beam.logits)
        scores = self._tree.rules(logits, beam.branch, normalise=True, draw_rules=False)
        if draw_rules:
            z = self._tree.rules(logits, beam.branch, normalise=True, draw_rules=True)
            # z is relative to the beam's best token; beams compete in absolute terms.
            scores = z + (scores.max() / np.float32(self._params.temperature) - z.max())
        return cast("Floats", scores + beam.score)

    def drawn(self, answers: Sequence[Answer], count: int) -> list[Candidate]:
        """`count` continuations drawn without replacement, in the order in which they were drawn."""
        self.take_rows(answers)
        keys: list[Any] = []
        found: list[tuple[int, Any, Floats]] = []
        for at, beam in enumerate(self.beams):
            scores = self.scores(at, draw_rules=True)
            ids = np.flatnonzero(np.isfinite(scores))
            noise = gumbel_noise(self._params.seed or 0, len(beam.tokens), at, ids)
            keys.append(scores[ids].astype(np.float64) + noise)
            found.append((at, ids, scores[ids]))
        order = np.argsort(-np.concatenate(keys), kind="stable")[:count]
        parents = np.concatenate([np.full(ids.size, at) for at, ids, _ in found])
        tokens = np.concatenate([ids for _, ids, _ in found])
        scores = np.concatenate([score for _, _, score in found])
        return [Candidate(int(parents[i]), int(tokens[i]), scores[i]) for i in order]

    def drop(self) -> None:
        for beam in self.beams:
            beam.branch.drop()

    def text(self, candidate: Candidate) -> tuple[int, ...]:
        return (*self.beams[candidate.parent].tokens, candidate.token)

    def said(self, candidate: Candidate) -> tuple[Told | None, ...]:
        beam = self.beams[candidate.parent]
        if self._params.logprobs is None:
            return (*beam.told, None)
        return (*beam.told, told(cast("Floats", beam.logits), candidate.token, self._params))

    def finished(self, candidate: Candidate, finish: FinishReason) -> Finished:
        tokens = self.text(candidate)
        return Finished(tokens, self.normalised(candidate.score, len(tokens)), self.said(candidate), finish)

    def stopped(self, beam: Beam, finish: FinishReason) -> Finished:
        """A beam that ends where it stands."""
        return Finished(beam.tokens, self.normalised(beam.score, len(beam.tokens)), beam.told, finish)

    def normalised(self, score: np.float32, length: int) -> float:
        return float(float(score) / length**self._params.length_penalty)

    def go_on(self, chosen: Sequence[Candidate], states: Sequence[Any] | None = None) -> None:
        """The chosen texts are the beams from now on: of each parent's children one keeps its branch, others
        fork it; a parent without children is dropped."""
        heirs: dict[int, int] = {}
        for at, candidate in enumerate(chosen):
            heirs.setdefault(candidate.parent, at)
        beams = [
            Beam(
                branch=self.beams[c.parent].branch
                if heirs[c.parent] == at
                else self.beams[c.parent].branch.fork(),
                tokens=self.text(c),
                score=c.score,
                told=self.said(c),
                state=states[at] if states is not None else None,
            )
            for at, c in enumerate(chosen)
        ]
        for at, beam in enumerate(self.beams):
            if at not in heirs:
                beam.branch.drop()
        self.beams = beams

    def certain(self, finished: Iterable[Finished]) -> list[Emit]:
        """What all texts that may still be returned have in common and was not emitted before, for each
        alternative."""
        texts = [beam.tokens for beam in self.beams] + [one.tokens for one in finished]
        first, rest = self.beams[0], texts[1:]
        start = at = self._certain
        while all(at < len(text) - 1 and text[at] == first.tokens[at] for text in [first.tokens, *rest]):
            at += 1
        self._certain = at
        if at == start:
            return []
        return [
            emit(first.tokens[start:at], first.told[start:at], alternative=k) for k in range(self._params.n)
        ]

    def results(self, finished: Sequence[Finished]) -> list[Emit]:
        """The ends of the n alternatives, `finished` being the best first."""
        n, start = self._params.n, self._certain
        if len(finished) < n:
            raise InvalidRequest(
                "n",
                got=f"{n} alternatives",
                expected=f"at most {len(finished)}, as many as the rules leave",
                hint="fewer alternatives, more beams, or looser rules",
            )
        return [
            emit(one.tokens[start:], one.told[start:], alternative=k, finish=one.finish, score=one.score)
            for k, one in enumerate(finished[:n])
        ]


def best_of_rows(rows: Sequence[Floats], count: int) -> list[Candidate]:
    """The `count` largest entries of the scores [V] of each beam, best first, ties by beam and lower id;
    without those that are -inf."""
    found = []
    for at, row in enumerate(rows):
        k = min(count, row.size)
        near = np.flatnonzero(row >= np.partition(row, row.size - k)[row.size - k])
        near = near[np.isfinite(row[near])]
        best = near[np.argsort(-row[near], kind="stable")][:k]
        found += [Candidate(at, int(id), row[id]) for id in best]
    found.sort(key=lambda c: -c.score)
    return found[:count]
