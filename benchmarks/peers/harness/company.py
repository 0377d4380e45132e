"""How much else the machine does while we measure, from /proc/stat: cores that others keep busy.

Engines whose threads wait for each other suffer from company far more than others, so a run on a busy machine
says so, and can wait for calm. Knows processor time, no engines.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

CALM = 0.15
"""Cores: what may be busy when we call the machine calm."""


def busy_seconds(stat: str) -> float:
    """Processor time of all processes since the start, from the first line of /proc/stat: user, nice and
    system, interrupts and stolen time; not idle, not waiting for a disk."""
    user, nice, system, _, _, *rest = map(int, stat.splitlines()[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._busy, self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return busy_seconds(Path("/proc/stat").read_text()), time.monotonic()

    def others(self, ours: float = 0.0) -> float:
        """Cores that were busy on average since the start, `ours` seconds of processor time not counted."""
        busy, now = self._now()
        return max(0.0, busy - self._busy - ours) / max(1e-3, now - self._began)


def wait_for_calm(patience: float) -> bool:
    """Wait until half a second is calm, at most `patience` seconds; whether it was."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        watch = Watch()
        time.sleep(0.5)
        if watch.others() < CALM:
            return True
    return False
