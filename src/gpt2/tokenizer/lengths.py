"""What to do with more tokens than fit: cut on the left, on the right, in the middle, or take overlapping
windows.

Every result says what was cut. Pure functions on sequences of ids; no vocabulary is needed.

T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from gpt2.errors import InvalidRequest

Policy: TypeAlias = Literal["left", "right", "middle"]
"""The side that is cut away: "left" keeps the end, "right" the beginning, "middle" both ends."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """The ids that were kept, and what was cut to get there."""

    ids: list[int]
    policy: Policy
    start: int
    """Index of the first id removed; equal to `stop` where nothing was."""
    stop: int
    """Index after the last id removed."""

    @property
    def cut(self) -> int:
        """The number of ids removed; they were the ids [start, stop) of the original."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """The ids [start, stop) of the original; the first `overlap` of them were in the window before, too."""

    ids: list[int]
    start: int
    stop: int
    overlap: int


def truncate(ids: Sequence[int], max_length: int, policy: Policy = "left") -> Truncated:
    """At most `max_length` >= 0 of the ids. "middle" keeps one more at the beginning where the number is odd.

    Example: truncate(range(6), 4, "middle") keeps 0, 1, 4, 5 and reports the cut [2, 4).
    Raises InvalidRequest for an unknown policy or a negative length.
    """
    if policy not in get_args(Policy):
        raise InvalidRequest("truncate", got=repr(policy), expected='"left", "right" or "middle"')
    _at_least("max_length", max_length, 0)
    excess = max(len(ids) - max_length, 0)
    if policy == "left" or not excess:
        start = 0
    elif policy == "right":
        start = max_length
    else:
        start = (max_length + 1) // 2
    stop = start + excess
    return Truncated([*ids[:start], *ids[stop:]], policy, start, stop)


def windows(ids: Sequence[int], max_length: int, stride: int) -> Iterator[Window]:
    """Windows of at most `max_length` ids, each `stride` ids after the one before, until every id is in one.

    Nothing is lost: neighbours share max_length - stride ids, and only the last window may be shorter. No
    ids give no window. Raises InvalidRequest unless 1 <= stride <= max_length.
    """
    _at_least("max_length", max_length, 1)
    if not 1 <= stride <= max_length:
        raise InvalidRequest(
            "stride", got=stride, expected=f"1 to max_length={max_length}, so that no id is lost"
        )
    return _windows(ids, max_length, stride)


def _windows(ids: Sequence[int], max_length: int, stride: int) -> Iterator[Window]:
    for start in range(0, len(ids), stride):
        stop = min(start + max_length, len(ids))
        yield Window(list(ids[start:stop]), start, stop, max_length - stride if start else 0)
        if stop == len(ids):
            return


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidRequest(name, got=value, expected=f"at least {least}")
