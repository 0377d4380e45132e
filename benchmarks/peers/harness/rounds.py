"""The interleaved measurement: in each round every engine does each operation once, one at a time.

`alive` says how many engines are loaded at once: "all"; "width" (those of one width, one width after the
other); "one" (loaded anew for each of its turns: slow, but the largest shapes fit). Ratios are only ever
taken within a width, so each of the three is fair. An engine that fails is left out from then on, with the
reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import company, conversion, environments, limits, workers
from harness.catalogue import WIDTHS, Row
from harness.operations import WARM_UP, Operation
from harness.workers import Worker, WorkerError

COLD = "cold"
"""The operation that is a new process: exec to the first token, then one stream for the memory."""


@dataclass(slots=True)
class Result:
    """What was measured of one row: a list with one value per round for each operation, None where it
    failed.
    """

    row: Row
    rounds: dict[str, list[float | None]] = field(default_factory=dict)
    chosen: dict[str, list[int]] = field(default_factory=dict)
    """The last tokens of the first round, for the comparison with the others."""
    company: list[float] = field(default_factory=list)
    """Cores that other processes kept busy, for each operation."""
    files_mb: float = 0.0
    error: str = ""

    def add(self, name: str, value: float | None) -> None:
        self.rounds.setdefault(name, []).append(value)


@dataclass(slots=True, kw_only=True)
class Bench:
    """One run of the comparison: the machine's limits of each round, and the rows' results."""

    cache: Path
    shape: str
    threads: int
    operations: dict[str, Operation]
    cold: bool = True
    alive: str = "all"
    patience: float = 0.0
    """Seconds to wait for a calm machine before each operation."""
    suffix: str = ""
    """Appended to the names of operations: a sweep over threads is several runs that share results."""
    limits: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)

    def run(self, rows: list[Row], rounds: int) -> None:
        ready = [row for row in rows if self._prepare(row)]
        widths = [width for width in WIDTHS if any(row.width == width for row in ready)]
        groups = [[row for row in ready if row.width == width] for width in widths]
        if self.alive != "width":
            groups = [[row for group in groups for row in group]]
        probe = limits.compile_probe(self.cache)
        megabytes = limits.sizes(widths, self.shape)
        for group in groups:
            with self._workers(group) as loaded:
                for at in range(rounds):
                    self.limits.append(limits.measure(probe, self.threads, megabytes))
                    self._round(group, loaded, at)

    def _prepare(self, row: Row) -> bool:
        result = self.results.setdefault(row.name, Result(row))
        if not result.error:
            result.error = conversion.ensure(row, self.cache, self.shape)
        if result.error:
            say(f"{row.name}: {result.error}")
            return False
        result.files_mb = conversion.megabytes(row, self.cache, self.shape)
        return True

    @contextmanager
    def _workers(self, rows: list[Row]) -> Iterator[dict[str, Worker]]:
        """The workers that stay loaded, by row name; none with alive == "one"."""
        loaded: dict[str, Worker] = {}
        try:
            if self.alive != "one":
                for row in rows:
                    if (worker := self._load(row)) is not None:
                        loaded[row.name] = worker
            yield loaded
        finally:
            for worker in loaded.values():
                worker.stop()

    def _load(self, row: Row) -> Worker | None:
        """A worker that is warm, or None and the reason in the result."""
        say(f"loading {row.name}")
        try:
            worker = workers.start(row, self.cache, self.shape, self.threads)
        except WorkerError as error:
            self._fail(row, error)
            return None
        try:
            for seed, operation in enumerate(WARM_UP):
                worker.measure(operation, seed=1000 + seed)
        except WorkerError as error:
            self._fail(row, error)
            worker.stop()
            return None
        return worker

    def _fail(self, row: Row, error: WorkerError) -> None:
        self.results[row.name].error = str(error)[:200]
        say(f"{row.name}: {error}")

    def _round(self, rows: list[Row], loaded: dict[str, Worker], at: int) -> None:
        turn = at % max(1, len(rows))
        order = rows[turn:] + rows[:turn]  # nobody is always the one after a certain other
        if self.alive == "one":
            for row in order:
                if not self.results[row.name].error and (worker := self._load(row)) is not None:
                    self._turn(row, worker, list(self.operations), at)
                    worker.stop()
        else:
            for name in self.operations:
                for row in order:
                    if row.name in loaded:
                        self._turn(row, loaded[row.name], [name], at)
        for row in order if self.cold else []:
            if not self.results[row.name].error:
                self._cold(row, at)

    def _turn(self, row: Row, worker: Worker, names: list[str], at: int) -> None:
        """These operations of one row, in this round."""
        result = self.results[row.name]
        for name in names:
            key = name + self.suffix
            company.wait_for_calm(self.patience)
            watch = company.Watch()
            try:
                answer = worker.measure(self.operations[name], seed=at)
            except WorkerError as error:
                result.add(key, None)
                say(f"{row.name}, {key}: {error}")
                continue
            result.company.append(watch.others(answer["cpu_seconds"]))
            result.add(key, answer["tokens_per_second"])
            result.chosen.setdefault(key, answer["chosen"])
            say(f"round {at + 1}, {key}: {row.name} {answer['tokens_per_second']:.1f} tokens/s")

    def _cold(self, row: Row, at: int) -> None:
        """A new process: seconds to its first token, and its peak memory after one stream of operation A."""
        result = self.results[row.name]
        company.wait_for_calm(self.patience)
        try:
            worker = workers.start(row, self.cache, self.shape, self.threads)
        except WorkerError as error:
            self._fail(row, error)
            return
        result.add(COLD + self.suffix, worker.cold_seconds)
        try:
            if at == 0:
                answer = worker.measure(self.operations.get("A", Operation(context=32, new=257)), seed=0)
                result.add("memory" + self.suffix, answer["peak_mb"])
        except WorkerError as error:
            self._fail(row, error)
        finally:
            worker.stop()


def versions(cache: Path, rows: list[Row]) -> dict[str, dict[str, str]]:
    """The packages of each environment that a row uses."""
    names = {row.environment for row in rows if row.environment}
    return {name: environments.status(cache, name).get("versions", {}) for name in sorted(names)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
