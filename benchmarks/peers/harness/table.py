"""From measured rounds to medians, spreads, ratios and the lines of the table. Pure: no process, no file.

A row's rounds are lists with one value per round, None where the engine failed in that round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Rounds = Sequence[float | None]

LOWER_IS_BETTER = frozenset({"cold", "memory", "peak", "files"})

TARGETS: dict[str, dict[str, float]] = {
    "float32": {"A": 1.1, "A900": 1.2, "P": 1.2, "B8": 1.3, "B32": 1.3},
    "bf16": {"A": 1.25, "A900": 1.4, "P": 2.2, "B8": 2.0, "B32": 2.2},
    "int8": {"A": 1.7, "A900": 2.2, "P": 4.0, "B8": 3.0, "B32": 3.5},
    "int4": {"A": 1.6, "A900": 1.8, "P": 4.0, "B8": 2.2, "B32": 3.5},
}
"""The least ratio to the best peer of the same width that this project wants (two threads, 124M shape)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of the rounds, and the least and the greatest of them."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """None when no round has a value."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def best(peers: Mapping[str, Rounds], operation: str) -> str | None:
    """The peer with the best median."""
    medians = {name: found.median for name, rounds in peers.items() if (found := spread(rounds))}
    if not medians:
        return None
    choose = min if operation in LOWER_IS_BETTER else max
    return choose(medians, key=lambda name: medians[name])


def ratio_to_best(ours: Rounds, peers: Mapping[str, Rounds], operation: str) -> Spread | None:
    """How many times better we are than the best peer of each round; above 1 is better, whatever is
    measured.
    """
    lower = operation in LOWER_IS_BETTER
    ratios = []
    for at, mine in enumerate(ours):
        theirs = [value for rounds in peers.values() if at < len(rounds) and (value := rounds[at])]
        if mine and theirs:
            ratios.append(min(theirs) / mine if lower else mine / max(theirs))
    return spread(ratios)


def verdict(width: str, operation: str, ratio: Spread | None) -> str:
    """What the target says of the median ratio; "" where there is no target or no ratio."""
    target = TARGETS.get(width, {}).get(operation)
    if target is None or ratio is None:
        return ""
    return "met" if ratio.median >= target else f"missed: {target:g}x"


def number(value: float) -> str:
    """Three significant digits, and thousands whole: 1234, 123, 12.3, 1.23."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(found: Spread | None) -> str:
    return f"{number(found.median)} ({number(found.low)}-{number(found.high)})" if found else "-"


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right. The first line is the head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def text(line: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join([line[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([text(lines[0]), "  ".join("-" * width for width in widths), *map(text, lines[1:])])
