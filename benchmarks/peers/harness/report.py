"""The tables and the JSON of a run. Knows what the numbers mean, not how they were taken."""

from __future__ import annotations

from typing import Any

from harness import limits, table
from harness.catalogue import WIDTHS
from harness.operations import Operation
from harness.rounds import COLD, Bench, Result
from harness.table import Rounds


def measured(bench: Bench, width: str, *, ours: bool, operation: str) -> dict[str, Rounds]:
    """The rounds of the rows of a width that have this operation."""
    return {
        name: result.rounds[operation]
        for name, result in bench.results.items()
        if result.row.width == width and result.row.is_ours == ours and operation in result.rounds
    }


def names(bench: Bench) -> list[str]:
    """The operations that any row has, in the order of their first appearance; memory after the rates."""
    found = list(dict.fromkeys(name for result in bench.results.values() for name in result.rounds))
    rates = [name for name in found if name not in table.LOWER_IS_BETTER]
    return rates + [name for name in (COLD, "memory") if name in found]


def rates(bench: Bench) -> str:
    """Median (least-greatest) of every row."""
    operations = names(bench)
    heads = {"cold": "cold s", "memory": "peak MB"}
    lines = [["", "width", *(heads.get(name, name) for name in operations), "files MB"]]
    for width in WIDTHS:
        for name, result in bench.results.items():
            if result.row.width == width and result.rounds:
                cells = [table.cell(table.spread(result.rounds.get(op, []))) for op in operations]
                lines.append([name, width, *cells, f"{result.files_mb:.0f}"])
    return table.layout(lines)


def failures(bench: Bench) -> list[str]:
    return [f"{name}: {result.error}" for name, result in bench.results.items() if result.error]


def ratios(bench: Bench) -> list[dict[str, Any]]:
    """One entry for each of our rows and operations: the best peer, the ratio to the best of each round,
    the target.
    """
    found = []
    for result in bench.results.values():
        if not result.row.is_ours:
            continue
        width = result.row.width
        for operation in names(bench):
            peers = measured(bench, width, ours=False, operation=operation)
            ratio = table.ratio_to_best(result.rounds.get(operation, []), peers, operation)
            if ratio is not None:
                entry = {"ours": result.row.name, "width": width, "operation": operation}
                entry |= {"best_peer": table.best(peers, operation), "ratio": ratio.median}
                entry |= {"low": ratio.low, "high": ratio.high}
                found.append(entry | {"verdict": table.verdict(width, operation, ratio)})
    return found


def ratio_table(entries: list[dict[str, Any]]) -> str:
    lines = [
        ["ours / best peer of each round", "", "ratio", "least", "greatest", "target", "best peer by median"]
    ]
    for e in entries:
        numbers = [f"{e[key]:.2f}x" for key in ("ratio", "low", "high")]
        lines.append([e["ours"], e["operation"], *numbers, e["verdict"], e["best_peer"]])
    return table.layout(lines)


def median_limits(bench: Bench) -> dict[str, Any]:
    """The median of the rounds for each size and each kind of arithmetic."""
    merged: dict[str, Any] = {"read_gb_s": {}, "gops": {}}
    for kind, values in merged.items():
        keys = dict.fromkeys(key for found in bench.limits for key in found[kind])
        for key in keys:
            spread = table.spread(found[kind].get(key) for found in bench.limits)
            if spread is not None:
                values[key] = spread.median
    return merged


def shares(bench: Bench, result: Result, operations: dict[str, Operation]) -> dict[str, float]:
    """Of the measured limit: of the bandwidth for a stream's decode, of the arithmetic for a prefill."""
    found, limit = {}, median_limits(bench)
    for name, operation in operations.items():
        spread = table.spread(result.rounds.get(name, []))
        if spread is None:
            continue
        for of in (limits.share_of_reading, limits.share_of_arithmetic):
            share = of(spread.median, result.row.width, bench.shape, operation, limit)
            if share is not None:
                found[name] = share
    return found


def share_table(bench: Bench) -> str:
    operations = {n: op for n, op in bench.operations.items() if op.batch == 1}
    lines = [["share of this run's limit", *operations]]
    for name, result in bench.results.items():
        if found := shares(bench, result, operations):
            lines.append([name, *(f"{found[op]:.0%}" if op in found else "-" for op in operations)])
    return table.layout(lines)


def others(bench: Bench) -> table.Spread | None:
    """Cores that other processes kept busy during the operations."""
    return table.spread(value for result in bench.results.values() for value in result.company)


def agreement(bench: Bench) -> dict[str, float]:
    """For each row, the part of its last tokens (first round) that are those of the first float32 row that
    ran.

    Narrow widths and other orders of summation may differ, and random weights make near ties, so this finds
    an engine that computes something else, not a rounding.
    """
    truth = next((r for r in bench.results.values() if r.row.width == "float32" and r.chosen), None)
    found = {}
    for name, result in bench.results.items():
        if truth is not None and result.chosen:
            pairs = [
                (a, b)
                for op in result.chosen.keys() & truth.chosen.keys()
                for a, b in zip(result.chosen[op], truth.chosen[op], strict=True)
            ]
            found[name] = sum(a == b for a, b in pairs) / max(1, len(pairs))
    return found


def text(bench: Bench) -> str:
    """Everything that is printed at the end."""
    limit = median_limits(bench)
    reading = ", ".join(f"{mb} MB: {value:.1f}" for mb, value in limit["read_gb_s"].items())
    arithmetic = ", ".join(f"{kind} {value / 1e3:.2f}" for kind, value in limit["gops"].items())
    parts = [
        f"{bench.shape} shape, {bench.threads} threads. Reads GB/s at {reading}. "
        f"Arithmetic, 1e12/s: {arithmetic}. "
        f"Cores busy with other work, by operation: {table.cell(others(bench))}.",
        rates(bench),
    ]
    if entries := ratios(bench):
        parts.append(ratio_table(entries))
    parts.append(share_table(bench))
    if agreed := agreement(bench):
        parts.append("same last token as float32: " + ", ".join(f"{n} {v:.0%}" for n, v in agreed.items()))
    if failed := failures(bench):
        parts.append("Not measured:\n" + "\n".join(f"  {line}" for line in failed))
    return "\n\n".join(parts)


def as_json(bench: Bench) -> dict[str, Any]:
    return {
        "shape": bench.shape,
        "threads": bench.threads,
        "limits": median_limits(bench),
        "limits_by_round": bench.limits,
        "rows": {
            name: {
                "width": result.row.width,
                "ours": result.row.is_ours,
                "options": result.row.options,
                "rounds": result.rounds,
                "other_work_cores": [round(value, 2) for value in result.company],
                "files_mb": round(result.files_mb, 1),
                "share_of_limit": shares(bench, result, bench.operations),
                "error": result.error,
            }
            for name, result in bench.results.items()
        },
        "ratios": ratios(bench),
        "agreement": agreement(bench),
    }
