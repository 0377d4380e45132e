"""A picture of results.json: one panel for each operation, one bar for each row, the spread of the rounds
as a line.

    python -m harness.plot RESULTS.json PLOT.svg

Runs in the environment `plot`, the only one with matplotlib.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

OURS, THEIRS = "#c44e52", "#8c9bb0"
UNITS = {"cold": "seconds to the first token", "memory": "peak MB"}


def panel(axes: Any, operation: str, rows: dict[str, Any]) -> None:
    """Bars of the medians, grouped by width, the widest first."""
    found = [
        (name, row, [value for value in row["rounds"][operation] if value is not None])
        for name, row in rows.items()
        if any(value is not None for value in row["rounds"].get(operation, []))
    ]
    for at, (_, row, values) in enumerate(found):
        middle = statistics.median(values)
        error = [[middle - min(values)], [max(values) - middle]]
        axes.barh(at, middle, xerr=error, color=OURS if row["ours"] else THEIRS, ecolor="#444444", height=0.7)
        axes.text(middle, at, f" {middle:.3g}", va="bottom", fontsize=6)
    axes.set_yticks(range(len(found)), [name for name, _, _ in found], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(f"{operation}: {UNITS.get(operation, 'tokens/s')}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def lines(axes: Any, title: str, names: list[str], rows: dict[str, Any]) -> None:
    """A sweep: the number at the end of the operation's name is the abscissa."""
    for name, row in rows.items():
        points = []
        for operation in names:
            values = [value for value in row["rounds"].get(operation, []) if value is not None]
            if values:
                digits = [word for word in operation.replace(",", "").split() if word.isdigit()]
                points.append((int(digits[-1]), statistics.median(values)))
        if points:
            axes.plot(
                *zip(*points, strict=True), marker="o", markersize=3, label=name, lw=2 if row["ours"] else 1
            )
    axes.set(title=title, ylabel="tokens/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(fontsize=6)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    found = json.loads(source.read_text())
    order = ("float32", "bf16", "int8", "int4")
    rows = dict(sorted(found["rows"].items(), key=lambda item: order.index(item[1]["width"])))
    names = list(dict.fromkeys(name for row in rows.values() for name in row["rounds"]))
    sweeps: dict[str, list[str]] = {}
    for name in names:
        if any(word.isdigit() for word in name.replace(",", "").split()):
            sweeps.setdefault(name.split()[0].rstrip(","), []).append(name)
    single = [name for name in names if not any(name in group for group in sweeps.values())]
    count = max(1, len(single) + len(sweeps))
    columns = min(2, count)
    height = max(3.0, 0.22 * len(rows) + 1)
    figure, grid = pyplot.subplots(
        -(-count // columns), columns, figsize=(6.5 * columns, height * -(-count // columns)), squeeze=False
    )
    axes = list(grid.flat)
    for at, name in enumerate(single):
        panel(axes[at], name, rows)
    for at, (title, group) in enumerate(sweeps.items(), start=len(single)):
        lines(axes[at], title, group, rows)
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle(f"{found['shape']} shape, {found['threads']} threads", fontsize=11)
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main()
