"""Suggestions for one loaded model, and the prefixes that are kept for the next ones.

Somebody who types asks again with a few letters more. So the branch of a prefix stays in the engine: the next
request goes on from where the two agree, which leaves a token or two to compute (none within a word, whose
beginning healing takes back), where the prefix cache alone, of whole blocks of 64 tokens, would leave half a
block. An idle branch holds blocks only until others need them.

Knows how a strategy is driven, not how it chooses: that is decoding/strategies/suggest.py.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Sequence
from typing import Final

from gpt2 import _native
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.healing import Healed, TokenIndex
from gpt2.decoding.strategies.suggest import Prefix, suggesting
from gpt2.decoding.tree import Emit
from gpt2.engine.branches import Driver, NativeBranch, NativeTree
from gpt2.engine.native_params import native_params
from gpt2.protocols import Suggestion

KEPT: Final = 16
"""Prefixes that stay: texts that are typed at the same time."""


class _Kept:
    """The branch of one prefix, in a request of its own."""

    def __init__(
        self,
        native: _native.Engine,
        vocab_size: int,
        ends: frozenset[int],
        salt: str,
        adapter: _native.Adapter | None,
    ) -> None:
        own = native_params(SamplingParams(temperature=0.0, logprobs=0), 0, ends)
        self.salt = salt
        self.adapter = adapter
        self.tokens: list[int] = []
        self.mailbox = _native.Mailbox(native)
        self.tree = NativeTree(
            self.mailbox, vocab_size, lambda _: own, lambda _: False, salt=salt, adapter=adapter
        )
        self.root: NativeBranch = self.tree.open()
        self.prefix = Prefix(self.root)

    def common(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt are computed; at least its last one is not."""
        most = min(len(self.tokens), len(prompt) - 1)
        return next((at for at in range(most) if self.tokens[at] != prompt[at]), most)

    def run(
        self, prompt: list[int], rest: bytes, index: TokenIndex, params: SamplingParams, ends: frozenset[int]
    ) -> list[Emit]:
        missing: list[int] = []
        if prompt != self.tokens:
            common = self.common(prompt)
            if common < len(self.tokens):
                self.root.rewind(common)
            self.tokens, self.prefix.logits, missing = prompt, None, prompt[common:]
        driver = Driver(suggesting(index, rest, self.prefix)(self.tree, missing, params, ends))
        emits = driver.start()
        while not driver.ended:
            for event in self.mailbox.wait():
                emits += driver.accept(self.tree, event)
        for branch in list(self.tree.branches.values()):
            if branch is not self.root:
                branch.drop()
        return emits


class Suggester:
    """All suggestions of one model. Safe to use from any number of threads."""

    def __init__(self, native: _native.Engine, vocab_size: int, ends: frozenset[int]) -> None:
        self._native = native
        self._vocab_size = vocab_size
        self._ends = ends
        self._lock = threading.Lock()
        self._idle: list[_Kept] = []  # the last used at the end

    def suggest(
        self,
        prompt: Healed,
        index: TokenIndex,
        params: SamplingParams,
        salt: str,
        adapter: _native.Adapter | None = None,
    ) -> list[Suggestion]:
        kept = self._taken(prompt.kept, salt, adapter)
        try:
            emits = kept.run(prompt.kept, prompt.rest, index, params, self._ends)
        except BaseException:
            kept.mailbox.close()
            raise
        with self._lock:
            self._idle.append(kept)
            too_many = self._idle[:-KEPT]
            self._idle = self._idle[-KEPT:]
        for old in too_many:
            old.mailbox.close()
        return _suggestions(emits, index, len(prompt.rest))

    def forget(self, adapter: _native.Adapter) -> None:
        """Give back the prefixes that were computed with an adapter."""
        with self._lock:
            gone = [kept for kept in self._idle if kept.adapter is adapter]
            self._idle = [kept for kept in self._idle if kept.adapter is not adapter]
        for kept in gone:
            kept.mailbox.close()

    def _taken(self, prompt: list[int], salt: str, adapter: _native.Adapter | None) -> _Kept:
        """The idle branch that has most of the prompt, if that is at least half of what it has: a text that
        has only its beginning in common is another one, and its branch stays."""
        with self._lock:
            best = max(
                (kept for kept in self._idle if kept.salt == salt and kept.adapter is adapter),
                key=lambda kept: kept.common(prompt),
                default=None,
            )
            if best is not None and 2 * best.common(prompt) >= len(best.tokens):
                self._idle.remove(best)
                return best
        return _Kept(self._native, self._vocab_size, self._ends, salt, adapter)


def _suggestions(emits: list[Emit], index: TokenIndex, skip: int) -> list[Suggestion]:
    """What was found, without the first `skip` bytes, which the prefix has."""
    out: dict[str, Suggestion] = {}
    for emit in emits:
        text = b"".join(index.bytes_of(token) or b"" for token in emit.tokens)[skip:]
        # A decoder that waits for the rest of a character leaves it away.
        if shown := codecs.getincrementaldecoder("utf-8")("replace").decode(text):
            suggestion = Suggestion(text=shown, logprob=emit.score or 0.0, tokens=tuple(emit.tokens))
            out.setdefault(shown, suggestion)
    return list(out.values())
