"""What may come next: masks over the vocabulary, and the strategy that draws under them.

A Masker follows one text and says after each token which tokens may come next. grammar.py makes one of a
grammar, healing.py of the bytes that a prompt took back. It knows tokens alone, no model; what is drawn among
the allowed tokens is the engine's business.

Where exactly one token may come next nothing is drawn: it is *forced*. The sampling rules do not see it (so a
grammar wins over no_repeat_ngram_size), and unless its log-probability is asked for it costs no step of its
own: it is computed together with what follows. The tokens are the same either way.

V vocabulary size, W = ceil(V / 32) words of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from gpt2.decoding.sampling import log_softmax
from gpt2.decoding.strategies.drawn import Drawn
from gpt2.decoding.tree import Answer, Ask, Choice, Extend, MakeStrategy, Wait

if TYPE_CHECKING:
    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Bits, Branch, Floats, Strategy, Tree
    from gpt2.protocols import FinishReason


class Masker(Protocol):
    """What may follow one text."""

    def mask(self) -> Bits | None:
        """The tokens that may come next, uint32 [W]; None if every one may. No bit at all: the text ends."""
        ...

    def push(self, token: int) -> None:
        """The next token, one that mask() allows and that does not end the text."""
        ...

    def fork(self) -> Masker:
        """Another that stands where this one stands."""
        ...


MakeMasker: TypeAlias = Callable[[], Masker]
"""A Masker at the beginning of the text."""


def mask_of(tokens: Sequence[int] | np.ndarray, vocab_size: int) -> Bits:
    """The mask that allows these tokens and no other, uint32 [W]."""
    bits = np.zeros((vocab_size + 31) // 32 * 32, dtype=np.uint8)
    bits[np.asarray(tokens, dtype=np.int64)] = 1
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def allowed(mask: Bits) -> np.ndarray:
    """The tokens that a mask allows, ascending; int64."""
    little = np.ascontiguousarray(mask.astype("<u4", copy=False))
    return np.flatnonzero(np.unpackbits(little.view(np.uint8), bitorder="little"))


def only(mask: Bits | None) -> int | None:
    """The token, if the mask allows exactly one."""
    if mask is None:
        return None
    words = np.flatnonzero(mask)
    if words.size != 1:
        return None
    word = int(mask[words[0]])
    return int(words[0]) * 32 + word.bit_length() - 1 if word & (word - 1) == 0 else None


def masked(make: MakeMasker) -> MakeStrategy:
    """The strategy that draws each token by the request's params among those that a Masker allows."""

    def strategy(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
        root = tree.open(prompt_length=len(prompt))
        texts = [_Masked(tree, root, prompt, params, ends, k, make()) for k in range(params.n)]
        for text in texts:
            yield from text.begin()
        first, others = texts[0], texts[1:]
        if others and not first.ended:
            # The prompt, and what is forced after it, is computed once for all of them.
            (answer,) = (yield Wait([first.extension(shared=True)])) or []
            for text in texts:
                if text is not first and not answer.full:
                    text.branch = root.fork(alternative=text.alternative)
                yield from text.answered(answer)
        while live := [text for text in texts if not text.ended]:
            answers = yield Wait([text.extension() for text in live])
            for text, answer in zip(live, answers or [], strict=True):
                yield from text.answered(answer)

    return strategy


class _Masked(Drawn):
    """One alternative while it is drawn."""

    def __init__(
        self,
        tree: Tree,
        branch: Branch,
        prompt: Sequence[int],
        params: SamplingParams,
        ends: frozenset[int],
        alternative: int,
        masker: Masker,
    ) -> None:
        super().__init__(tree, branch, prompt, params, ends, alternative)
        self._masker = masker
        self._mask: Bits | None = None
        self._forced: int | None = None  # the next token, when only its log-probability is to be found

    def begin(self) -> Strategy:
        """Before anything is computed: what is forced after the prompt."""
        return self._settle([], None)

    def extension(self, *, shared: bool = False) -> Extend:
        """The pending tokens, and what is asked of them. shared: every alternative takes the answer."""
        ask = Ask("choices", mask=self._mask) if self._forced is None and not shared else Ask("logits")
        return Extend(self.branch, self.pending, ask)

    def answered(self, answer: Answer) -> Strategy:
        """The next token, and what is forced after it."""
        if answer.full:
            yield self.full()
            return
        if answer.logits is None:
            choice = answer.choices[0]
        elif self._forced is None:
            choice = self._tree.choose(answer.logits[-1], self.branch, mask=self._mask)
        else:
            choice = scored(answer.logits[-1], self._forced, self._params.logprobs or 0)
        yield from self._settle([choice], self.append(choice.token))

    def append(self, token: int) -> FinishReason | None:
        finish = super().append(token)
        if finish in (None, "length"):
            self._masker.push(token)
        return finish

    def _settle(self, fresh: list[Choice], finish: FinishReason | None) -> Strategy:
        """Emit the fresh tokens with those that are forced after them, and the end if this is it."""
        while finish in (None, "length"):
            self._mask, self._forced = self._masker.mask(), None
            if self._mask is not None and not self._mask.any():
                finish = "grammar"  # complete, be it with the last token that was allowed
            elif finish == "length" or (forced := only(self._mask)) is None:
                break
            elif self._params.logprobs is not None:
                self._forced = forced
                break
            else:
                fresh.append(Choice(forced, math.nan))
                finish = self.append(forced)
        if fresh or finish is not None:
            yield self.emit(fresh, finish)


def scored(logits: Floats, token: int, top: int) -> Choice:
    """A token with the model's log-probability of it, and of the `top` most probable ones, by logits [V]."""
    logprobs = log_softmax(logits)
    best = np.argsort(-logprobs, kind="stable")[:top]
    return Choice(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best))
