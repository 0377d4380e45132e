"""Find stop strings in text that arrives in pieces, and never show a piece of one.

Text that could be the beginning of a stop string is held back until the next pieces decide. Knows no tokens:
the pieces may be cut anywhere.

The rule: the text ends where the earliest stop string starts. If several start there, the one that is
complete first is reported (so the shortest). For every way of cutting a text into pieces the output is the
same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gpt2.errors import InvalidRequest


class Matched(NamedTuple):
    emit: str
    """Text that is certain now."""
    stopped: bool
    """True from the piece on that settles that the text has ended."""
    which: str | None
    """The stop string that ended it."""


class StopMatcher:
    """Feed text with push(), end with finish(). After a stop, nothing more is emitted."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        if "" in self._stops:
            raise InvalidRequest("stop", got="''", expected="strings, none of them empty")
        self._held = ""
        self._which: str | None = None

    @property
    def held(self) -> str:
        """Text that was fed but is neither emitted nor cut: the possible beginning of a stop string."""
        return self._held

    def push(self, piece: str) -> Matched:
        """Feed the next piece of text."""
        if self._which is not None:
            return Matched("", True, self._which)
        text = self._held + piece
        return self._settle(text, self._first_possible(text))

    def finish(self) -> Matched:
        """No more text comes: what is held back is either text after all, or ended by a stop string inside
        it."""
        if self._which is not None:
            return Matched("", True, self._which)
        text = self._held
        return self._settle(text, min(self._starts(text).values(), default=len(text)))

    def _settle(self, text: str, sure: int) -> Matched:
        """Emit text[:sure] unless a complete stop string starts at `sure`, or nothing earlier is still
        open."""
        starts = self._starts(text)
        if starts and min(starts.values()) == sure:
            self._which = min((s for s in starts if starts[s] == sure), key=len)
            self._held = ""
            return Matched(text[:sure], True, self._which)
        self._held = text[sure:]
        return Matched(text[:sure], False, None)

    def _starts(self, text: str) -> dict[str, int]:
        """Where each stop string that is complete in `text` first starts."""
        return {s: at for s in self._stops if (at := text.find(s)) >= 0}

    def _first_possible(self, text: str) -> int:
        """The first index at which a stop string starts, complete or as far as the text goes; else
        len(text)."""
        first = min(self._starts(text).values(), default=len(text))
        for stop in self._stops:
            for at in range(max(0, len(text) - len(stop) + 1), first):
                if stop.startswith(text[at:]):
                    first = at
                    break
        return first
