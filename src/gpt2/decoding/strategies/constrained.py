"""Constrained beam search: beams that are led to texts in which all of the given words occur.

Beside the best continuations, each beam is offered the tokens that would bring it further in fulfilling its
words. All are sorted into banks by how far they have come, and the beams are taken from the banks in turn,
the furthest first (dynamic beam allocation, arXiv:1804.06609). A text ends before its last token only when
all words are there. A word that the prompt holds counts, as it does in transformers.

Where even so the text came to its end without all words, the best texts are returned as they are.

Oracle: transformers 4.49 (constrained beam search, which 5 dropped). It differs on purpose where the forms of
a word part after a common beginning: there transformers lets its copies of a state change each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from gpt2.decoding.options.constraints import Phrase, Word
from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending
from gpt2.decoding.strategies.frontier import Candidate, Frontier, best_of_rows
from gpt2.decoding.strategies.hypotheses import Hypotheses, live_of, ranked
from gpt2.decoding.tree import Answer, Strategy, Tree
from gpt2.errors import InvalidRequest
from gpt2.protocols import FinishReason

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]


class Progress(NamedTuple):
    """How far a text has come in fulfilling its words, one after the other, in any order."""

    pending: tuple[Word, ...]
    """Not begun."""
    begun: Word | None
    prefix: Phrase
    """What is there of one of the forms of `begun`."""
    complete: int
    """How many words are fulfilled."""

    @classmethod
    def of(cls, words: Sequence[Word], tokens: Sequence[int]) -> Progress:
        state = cls(tuple(words), None, (), 0)
        for token in tokens:
            state = state.after(token)
        return state

    @property
    def fulfilled(self) -> bool:
        return not self.pending and self.begun is None

    def after(self, token: int) -> Progress:
        """With one more token. A token that breaks off a word begins no other one."""
        if self.begun is None:
            for at, word in enumerate(self.pending):
                if any(form[0] == token for form in word):
                    rest = self.pending[:at] + self.pending[at + 1 :]
                    return Progress(rest, word, (), self.complete)._with((token,))
            return self
        if token in _next(self.begun, self.prefix):
            return self._with((*self.prefix, token))
        return Progress((*self.pending, self.begun), None, (), self.complete)

    def _with(self, prefix: Phrase) -> Progress:
        if prefix in cast(Word, self.begun):
            return Progress(self.pending, None, (), self.complete + 1)
        return Progress(self.pending, self.begun, prefix, self.complete)

    def helpful(self) -> list[int]:
        """The tokens that bring it further."""
        if self.begun is not None:
            return _next(self.begun, self.prefix)
        return [token for word in self.pending for token in _next(word, ())]

    def bank(self, longest: int) -> int:
        """How far it has come: a fulfilled word counts as the longest one."""
        begun = 0
        if self.begun is not None:
            begun = longest - (_height(self.begun) - len(self.prefix))
        return self.complete * longest + begun


def _height(word: Word) -> int:
    return max(len(form) for form in word)


def _next(word: Word, prefix: Phrase) -> list[int]:
    at = len(prefix)
    return list(dict.fromkeys(form[at] for form in word if form[:at] == prefix and len(form) > at))


def constrained_beam_search(
    tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
) -> Strategy:
    ending = Ending(tree, params, ends)
    frontier = Frontier(tree, prompt, params, ending, rows=True)
    texts = Hypotheses(params.num_beams, params)
    words = params.force_words_ids
    if ending.ids & {token for word in words for form in word for token in form}:
        raise InvalidRequest(
            "force_words_ids and the tokens that end a text contradict each other",
            got=f"{sorted(ending.ids & {t for word in words for form in word for t in form})} in both",
            expected="words without them",
            hint="ignore_eos=True, or other stop_token_ids",
        )
    longest = max(_height(word) for word in words)
    count = max(2, 1 + len(ending.ids)) * params.num_beams
    frontier.beams[0].state = Progress.of(words, prompt)
    finish: FinishReason = "length"
    for length in range(1, params.max_new_tokens + 1):
        answers = cast("list[Answer]", (yield frontier.wait(0)))
        if any(answer.full for answer in answers):
            finish = "context"
            break
        frontier.take_rows(answers)
        rows = [frontier.scores(at) for at in range(len(frontier.beams))]
        best = best_of_rows(rows, count)
        live = live_of(
            frontier, best, params.num_beams, texts.add, lambda c: frontier.beams[c.parent].state.fulfilled
        )
        done = texts.is_done(best[0].score, length)
        if done or not live:
            finish = "stop"
            break
        chosen, states = _allocated(frontier, rows, live, longest, params.num_beams)
        frontier.go_on(chosen, states)
        yield from frontier.certain(texts.texts)
    if finish != "stop":
        _close(frontier, texts, params.n, finish)
    yield from frontier.results(ranked(texts.texts))


def _allocated(
    frontier: Frontier, rows: Sequence[Floats], live: Sequence[Candidate], longest: int, width: int
) -> tuple[list[Candidate], list[Progress]]:
    """The beams of the next step, from the banks in turn, and their progress."""
    offered = list(live)
    texts = {frontier.text(c) for c in live}
    helped = False
    for at, beam in enumerate(frontier.beams):
        for token in beam.state.helpful():
            candidate = Candidate(at, token, rows[at][token])
            text = frontier.text(candidate)
            ends = frontier.ending.reason(text) in ("eos", "stop")
            if text not in texts and not ends and np.isfinite(candidate.score):
                texts.add(text)
                offered.append(candidate)
                helped = True
    states = [frontier.beams[c.parent].state.after(c.token) for c in offered]
    if not helped:
        return offered, states
    banks = [state.bank(longest) for state in states]
    keys = [np.float32(bank * 100) + c.score for bank, c in zip(banks, offered, strict=True)]
    order = sorted(range(len(offered)), key=lambda i: -keys[i])
    ranks: list[int] = []  # within a run of one bank
    for before, at in zip([None, *order], order, strict=False):
        ranks.append(ranks[-1] + 1 if before is not None and banks[before] == banks[at] else 0)
    turns = sorted(range(len(order)), key=lambda i: ranks[i])[:width]
    kept = [order[i] for i in turns]
    return [offered[i] for i in kept], [states[i] for i in kept]


def _close(frontier: Frontier, texts: Hypotheses, n: int, finish: FinishReason) -> None:
    """The beams are complete where they stand; those without all words only if there are too few others."""
    fulfilled = [beam for beam in frontier.beams if beam.state.fulfilled]
    others = [beam for beam in frontier.beams if not beam.state.fulfilled]
    for beam in fulfilled + (others if len(fulfilled) < n else []):
        texts.add(frontier.stopped(beam, finish))
