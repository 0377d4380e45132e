"""The mailboxes of one reader: that of the model, and those of models that guess for it.

Whose answer is waited for first: the guesses'. So all requests that speculate have their guesses when the
model computes its next step, and share it.
"""

from __future__ import annotations

from typing import Any

from gpt2 import _native
from gpt2.engine.branches import BranchEvent
from gpt2.engine.requests import Key
from gpt2.engine.run import Event


class Post:
    """Mailboxes by engine; they are made as they are asked for."""

    def __init__(self, native: _native.Engine) -> None:
        self._natives = [native]
        self._boxes = [_native.Mailbox(native)]

    def box(self, native: _native.Engine) -> tuple[int, _native.Mailbox]:
        """A mailbox of an engine, and its place."""
        for at, known in enumerate(self._natives):
            if known is native:
                return at, self._boxes[at]
        self._natives.append(native)
        self._boxes.append(_native.Mailbox(native))
        return len(self._boxes) - 1, self._boxes[-1]

    @property
    def live(self) -> int:
        """Events at least that are still to come."""
        return sum(box.live for box in self._boxes)

    def wait(self) -> list[tuple[Key, Event | BranchEvent]]:
        """Waits for events; an empty list says that none are left to come."""
        boxes = self._boxes
        at = next((at for at in range(len(boxes) - 1, 0, -1) if boxes[at].live), 0)
        events: list[Any] = boxes[at].wait()
        return [((at, event[0]), event) for event in events]

    def pause(self, key: Key, paused: bool) -> None:
        self._boxes[key[0]].pause(key[1], paused)

    def cancel(self, key: Key) -> None:
        self._boxes[key[0]].cancel(key[1])

    def close(self) -> None:
        for box in self._boxes:
            box.close()
