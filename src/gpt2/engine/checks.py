"""What arguments of a call may be that are no option of SamplingParams: salt, timeout, counts and positions.

Each check returns the value as it is used, or raises InvalidRequest with what, got and expected.
"""

from __future__ import annotations

import math

from gpt2.decoding.options.values import shown
from gpt2.errors import InvalidRequest


def whole(
    name: str, value: object, low: int, high: int, *, or_none: bool = False, source: str | None = None
) -> int:
    """A whole number in [low, high]; True is none. `or_none` is for the message: None is another way."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        expected = f"a whole number from {low} to {high}{', or None' if or_none else ''}"
        raise InvalidRequest(name, got=shown(value), expected=expected, source=source)
    return value


def seconds(name: str, value: object) -> float | None:
    """More than no time, which may be infinite; None is None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidRequest(name, got=shown(value), expected="a positive number of seconds, or None")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def salt(value: object) -> str:
    """A text that UTF-8 can write."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
        likely = None
    except UnicodeEncodeError:
        likely = "it has a lone surrogate, which is no character"
    raise InvalidRequest("salt", got=shown(value), expected="a text", likely=likely)
