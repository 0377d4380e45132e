"""Speculation: guess the next tokens cheaply, and let the model check all guesses in one step.

Lossless to the bit: the draw for a position depends on (seed, alternative, position) alone, the engine makes
it after each guess that was right, and a guess is right when it equals that draw (Ask.drafts). So the text is
the one without speculation, for greedy decoding and for sampling, whatever is guessed. (Leviathan et al.
2022, arXiv:2211.17192, accept by chance instead, and so keep the distribution but not the text.)

Two that guess: what followed the same words earlier in the text (Saxena 2023, "Prompt Lookup Decoding"), and
a smaller model with the same vocabulary that draws with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpt2.decoding.strategies.drawn import Drawn, begin
from gpt2.decoding.tree import Ask, Extend, Wait

if TYPE_CHECKING:
    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Branch, Floats, MakeStrategy, Strategy, Tree

MAX_NGRAM = 2
"""Tokens that must have occurred before for what followed them to be a guess, unless the request says more:
transformers' default."""

FIRST_DRAFTS = 4
"""Guesses of a draft model for the first step; then their number follows from how many were right."""

MAX_DRAFTS = 16
"""More are hardly ever all right, and each costs a step of the draft model."""


class Adaptive:
    """How many guesses are worth checking: twice as many after a step in which all were right, else one more
    than were right."""

    def __init__(self, first: int, most: int) -> None:
        self._most = most
        self.count = min(first, most)

    def learn(self, made: int, right: int) -> None:
        if made:
            self.count = min(self._most, 2 * self.count if right == made else right + 1)


class Lookup:
    """Guesses what followed the last tokens where they occurred before: the longest match, the latest of
    those."""

    def __init__(self, most: int, longest: int = MAX_NGRAM) -> None:
        self._adaptive = Adaptive(most, most)
        self._longest = longest
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # a run of tokens -> where what followed it begins

    def guesses(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` guesses of what follows `tokens`, which must begin as those of the last call."""
        ids = self._ids
        for token in tokens[len(ids) :]:
            for n in range(1, min(self._longest, len(ids)) + 1):
                self._after[tuple(ids[-n:])] = len(ids)
            ids.append(token)
        most = min(most, self._adaptive.count)
        for n in range(min(self._longest, len(ids)) if most > 0 else 0, 0, -1):
            at = self._after.get(tuple(ids[-n:]))
            if at is not None:  # beyond the end of the text its guesses follow themselves: it repeats
                period = ids[at : at + most]
                return (period * (most // len(period) + 1))[:most]
        return []

    def learn(self, made: int, right: int) -> None:
        self._adaptive.learn(made, right)


def prompt_lookup(
    tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
) -> Strategy:
    """Greedy decoding or sampling that guesses from the text itself (prompt_lookup_num_tokens)."""
    texts = yield from begin(tree, prompt, params, ends, drawn_from(tree))
    most, longest = params.prompt_lookup_num_tokens or 0, params.max_matching_ngram_size or MAX_NGRAM
    lookups = {text: Lookup(most, longest) for text in texts}
    while live := [text for text in texts if not text.ended]:
        guesses = {text: lookups[text].guesses(text.tokens, text.left - 1) for text in live}
        answers = yield Wait([checked(text, guesses[text]) for text in live])
        for text, got in zip(live, answers or (), strict=True):
            lookups[text].learn(len(guesses[text]), len(got.choices) - 1)
            yield text.full() if got.full else text.take(got.choices)


def drawn_from(tree: Tree) -> Callable[[Drawn, Floats], Strategy]:
    """Takes the first token of an alternative from the logits that all share."""

    def take(text: Drawn, logits: Floats) -> Strategy:
        yield text.take([tree.choose(logits, text.branch)])

    return take


def checked(text: Drawn, guesses: Sequence[int]) -> Extend:
    """What is certain but not computed, and the guesses after it."""
    return Extend(text.branch, [*text.pending, *guesses], Ask("choices", drafts=len(guesses)))


def assisted(drafts: Tree) -> MakeStrategy:
    """Greedy decoding or sampling that a smaller model guesses for. drafts: a tree of that model, whose
    branches draw as those of the request do."""

    def strategy(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
        texts = yield from begin(tree, prompt, params, ends, drawn_from(tree))
        drafters = {
            text: Drafter(drafts.open(alternative=text.alternative, prompt_length=len(prompt)))
            for text in texts
        }
        while live := [text for text in texts if not text.ended]:
            yield from draft([(drafters[text], text) for text in live])
            answers = yield Wait([checked(text, drafters[text].guesses) for text in live])
            for text, got in zip(live, answers or (), strict=True):
                if got.full:
                    yield text.full()
                    continue
                drafters[text].learn(len(got.choices) - 1)
                yield text.take(got.choices)

    return strategy


class Drafter:
    """The smaller model's branch beside one text."""

    def __init__(self, branch: Branch) -> None:
        self.guesses: list[int] = []
        self.full = False  # its window is, so that it has no more to say
        self._branch = branch
        self._adaptive = Adaptive(FIRST_DRAFTS, MAX_DRAFTS)
        self._wanted = 0

    def begin(self, text: Drawn) -> None:
        """Before the guesses of one step: forget those that were wrong."""
        self.guesses = []
        self._text = text
        self._wanted = 0 if self.full else min(self._adaptive.count, text.left - 1)
        if self._branch.length > len(text.tokens) - 1:
            self._branch.rewind(len(text.tokens) - 1)

    @property
    def wants(self) -> bool:
        return not self.full and len(self.guesses) < self._wanted

    def extension(self) -> Extend:
        known = [*self._text.tokens, *self.guesses]
        return Extend(self._branch, known[self._branch.length :], Ask("choices"))

    def learn(self, right: int) -> None:
        """How many guesses were right; the branch keeps these."""
        self._adaptive.learn(len(self.guesses), right)
        wrong = len(self.guesses) - right
        if wrong > 1:  # the last guess was never computed
            self._branch.rewind(self._branch.length - (wrong - 1))


def draft(pairs: Sequence[tuple[Drafter, Drawn]]) -> Strategy:
    """Let all of them guess, side by side."""
    for drafter, text in pairs:
        drafter.begin(text)
    while some := [drafter for drafter, _ in pairs if drafter.wants]:
        answers = yield Wait([drafter.extension() for drafter in some])
        for drafter, answer in zip(some, answers or (), strict=True):
            drafter.full = answer.full
            drafter.guesses += [choice.token for choice in answer.choices]
