"""The loop that both fuzz targets share: make an input, read it, hold the reader to its promises.

For every input the reader must either accept it or raise a gpt2.Error: nothing else, within LIMIT seconds of
processor time and, on every 64th input, with no more memory than twice the file and a fixed allowance. Inputs
follow from (seed, number), so a failure is repeated by `--seed S --first N --inputs 1`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gpt2.weights.torch_legacy
import gpt2.weights.torch_zip  # noqa: F401  imported here, so that their import is not measured later
from gpt2.errors import Error
from gpt2.weights import Weights, open_weights

LIMIT = 0.100
ALLOWANCE = 1 << 20
"""Python's own objects for a file of a few hundred bytes: names, dicts, errors."""

INTERESTING = [
    0, 1, 2, 3, 4, 6, 7, 8, 24, 36, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
    1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -1, -2, -8, -(1 << 31), -(1 << 63),
]  # fmt: skip

Make = Callable[[random.Random], bytes]
Check = Callable[[Path, Weights], None]


def flip(rng: random.Random, data: bytes, times: int = 1) -> bytes:
    """Change, insert, repeat or remove a few bytes."""
    out = bytearray(data)
    for _ in range(times):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                del out[at : at + rng.randrange(1, 17)]
            case _:
                end = min(len(out), at + rng.randrange(1, 33))
                out[at:at] = out[at:end]
    return bytes(out)


def run(
    make: Make,
    *,
    seed: int,
    first: int = 0,
    inputs: int | None = None,
    seconds: float | None = None,
    check: Check | None = None,
) -> Counter[str]:
    """Try inputs until their number or the time is used up. Returns how often each outcome was seen."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds if seconds is not None else None
    number = first
    with tempfile.TemporaryDirectory(prefix="gpt2-fuzz-") as folder:
        path = Path(folder) / "input"
        while (inputs is None or number < first + inputs) and (end is None or time.monotonic() < end):
            data = make(random.Random(f"{seed}:{number}"))
            path.write_bytes(data)
            try:
                outcomes[attempt(path, len(data), check, measure=number % 64 == 0)] += 1
            except Exception as error:
                raise AssertionError(f"--seed {seed} --first {number} --inputs 1: {error!r}") from error
            number += 1
    outcomes["inputs"] = number - first
    return outcomes


def attempt(path: Path, size: int, check: Check | None, *, measure: bool) -> str:
    """Read one file; returns "accepted" or the name of the error. Raises where a promise is broken."""
    if measure:
        tracemalloc.start()
    begun = time.process_time()
    weights, outcome = None, "accepted"
    try:
        weights = open_weights(path)
    except Error as error:
        outcome = type(error).__name__
        text = str(error)
        if len(text) > 3000 or "\0" in text:
            raise AssertionError(f"an unfit message: {text[:200]!r}") from error
    spent = time.process_time() - begun
    if measure:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > 2 * size + ALLOWANCE:
            raise AssertionError(f"{peak:,} bytes allocated for a file of {size:,}")
    elif spent > LIMIT:
        raise AssertionError(f"{outcome} only after {spent * 1000:.0f} ms")
    if weights is not None:
        with weights:
            if check is not None:
                check(path, weights)
    return outcome


def main(make: Make, title: str, check: Check | None) -> None:
    """The command line of a target."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seconds", type=float, help="how long (default: 60, unless --inputs)")
    parser.add_argument("--inputs", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument(
        "--oracle", action="store_true", help="what is accepted, the usual library must read equally"
    )
    options = parser.parse_args()
    seconds = 60.0 if options.seconds is None and options.inputs is None else options.seconds
    begun = time.monotonic()
    outcomes = run(
        make, seed=options.seed, first=options.first, inputs=options.inputs, seconds=seconds,
        check=check if options.oracle else None,
    )  # fmt: skip
    spent = time.monotonic() - begun
    print(
        f"{title}: {outcomes.pop('inputs'):,} inputs in {spent:.1f} s, 0 failures",
        dict(outcomes),
        file=sys.stdout,
    )
