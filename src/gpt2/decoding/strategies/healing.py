"""Token healing: a text that was cut within a word goes on as if it had not been.

"The capi" is the tokens "The", " cap", "i", but no text that a model has read spells " capital" so; after
these tokens "tal" is improbable. So the last tokens are taken back, as many as there are whose bytes a
longer token begins with, and chosen anew: what comes must begin with their bytes. It works on bytes, so that
a cut within a character is healed like any other.

Where tokens repeat all of those bytes, only these are allowed, and so all that a healed word needs is one
draw by the model's own probabilities. A shorter token would be judged by how probable it is itself, whatever
must come after it: " t" is a common token, but not before "ime".

Knows tokens as bytes, and no model. Special tokens have no bytes here: they are never taken back, and none
comes where bytes are to be repeated.

V vocabulary size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpt2.decoding.strategies.masked import mask_of

if TYPE_CHECKING:
    from gpt2.decoding.strategies.grammar import Vocabulary
    from gpt2.decoding.tree import Bits


class Healed(NamedTuple):
    """A prompt without the tokens that are chosen anew."""

    kept: list[int]
    rest: bytes
    """What the tokens that were taken back stand for; the new ones begin with it."""


class TokenIndex:
    """The tokens of a vocabulary in the order of their bytes. Immutable; one for 50,257 tokens takes some
    50 ms."""

    def __init__(self, tokenizer: Vocabulary, vocab_size: int) -> None:
        """vocab_size: V of the model, which may be more than the tokenizer's."""
        special = set(tokenizer.special_tokens.values())
        known = range(min(tokenizer.vocab_size, vocab_size))
        self.vocab_size = vocab_size
        self._bytes = {id: text for id in known if id not in special and (text := tokenizer.token_bytes(id))}
        ordered = sorted((text, id) for id, text in self._bytes.items())
        self._texts = [text for text, _ in ordered]
        self._ids = [id for _, id in ordered]
        self.spelled: Bits = mask_of(self._ids, vocab_size)
        """The mask of the tokens that have bytes."""
        self._longest = max(map(len, self._texts), default=0)

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token; None for one that has none."""
        return self._bytes.get(token)

    def starting_with(self, prefix: bytes) -> list[int]:
        """The tokens whose bytes begin with `prefix`."""
        first = bisect_left(self._texts, prefix)
        after = _next_of(prefix)
        last = bisect_left(self._texts, after, first) if after is not None else len(self._texts)
        return self._ids[first:last]

    def spelling(self, text: bytes) -> list[int]:
        """The tokens whose bytes are `text`."""
        first = bisect_left(self._texts, text)
        last = bisect_left(self._texts, text + b"\0", first)
        return self._ids[first:last]

    def towards(self, rest: bytes) -> list[int]:
        """The tokens that may come next where `rest`, at least one byte, is to be repeated.

        Those that repeat all of it, where there are any. Otherwise those that repeat its beginning and can be
        followed by tokens that repeat what is left.
        """
        if covering := self.starting_with(rest):
            return covering
        # good[i]: rest[i:] can be continued; from the end, where everything can.
        good = [False] * len(rest) + [True]
        for i in reversed(range(len(rest))):
            good[i] = bool(self.starting_with(rest[i:])) or any(
                good[j] and self.spelling(rest[i:j]) for j in range(i + 1, len(rest))
            )
        return [token for j in range(1, len(rest)) if good[j] for token in self.spelling(rest[:j])]

    def take_back(self, prompt: Sequence[int]) -> Healed:
        """The prompt without its last tokens: as many as there are whose bytes a longer token begins with."""
        rest, taken, back = b"", b"", 0
        for count, token in enumerate(reversed(prompt), start=1):
            text = self.bytes_of(token)
            if text is None or len(text) + len(rest) >= self._longest:
                break
            rest = text + rest
            if len(self.starting_with(rest)) > len(self.spelling(rest)):
                taken, back = rest, count
        return Healed(list(prompt[: len(prompt) - back]), taken)


class Healing:
    """A Masker (masked.py): the text begins with the bytes `rest`, and then anything follows."""

    def __init__(self, index: TokenIndex, rest: bytes) -> None:
        self._index = index
        self._rest = rest

    def mask(self) -> Bits | None:
        if not self._rest:
            return None
        return mask_of(self._index.towards(self._rest), self._index.vocab_size)

    def push(self, token: int) -> None:
        if self._rest:
            self._rest = self._rest[len(self._index.bytes_of(token) or b"") :]

    def fork(self) -> Healing:
        return Healing(self._index, self._rest)


def heal(index: TokenIndex, prompt: Sequence[int], start: int | None) -> Healed:
    """As take_back(), but something is kept: `start`, with which a text begins, or else the prompt's first
    token."""
    kept, rest = index.take_back(prompt)
    if kept:
        return Healed(kept, rest)
    if start is not None:
        return Healed([start], rest)
    kept, rest = index.take_back(prompt[1:])
    return Healed([prompt[0], *kept], rest)


def _next_of(prefix: bytes) -> bytes | None:
    """The least bytes that come after everything that begins with `prefix`; None where nothing does."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
