"""Being asked to stop: SIGTERM and SIGINT become a flag that the loop looks at between micro-batches.

A second signal does what it does elsewhere. Signals belong to a process's main thread; in another one nothing
is caught. Knows nothing of training.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Asked:
    """with Asked() as asked: ... if asked.signal is not None: save; asked.leave()"""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Asked:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def leave(self) -> NoReturn:
        """End as the signal would have: KeyboardInterrupt, or the exit code that SIGTERM gives."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signal or signal.SIGTERM))
