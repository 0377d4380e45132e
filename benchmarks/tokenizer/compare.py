"""Speed of encoding beside other tokenizers, in one run, in turns.

    python benchmarks/tokenizer/compare.py                 # everything, some minutes
    python benchmarks/tokenizer/compare.py --quick         # less text, fewer rounds
    python benchmarks/tokenizer/compare.py --vocab DIR     # another vocabulary than GPT-2's

Every tokenizer gets the same vocabulary and the same documents and returns Python ints (a list per
document), on one thread and as a batch on all cores. Peers that are not installed are left out; nothing is
installed. Each round runs all of them, one after the other, in an order that changes, so that what else the
machine does hits all alike. The table has medians over the rounds in MB/s of UTF-8, the spread (smallest to
largest), and MB per second of processor time of all threads, for machines that are not at rest. Ids that
differ from ours are marked. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import texts

from gpt2.tokenizer import Tokenizer

# As tiktoken itself writes GPT-2's expression: with the original one it overflows its stack on a megabyte of
# spaces.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
THREADS = len(os.sched_getaffinity(0))
Encoder = Callable[[list[str]], Sequence[Sequence[int]]]


def ours(folder: Path) -> dict[str, Encoder]:
    tokenizer = Tokenizer.load(folder)
    return {
        "one thread": lambda documents: [tokenizer.encode(d) for d in documents],
        "batch": lambda documents: tokenizer.encode_batch(documents, threads=THREADS),
    }


def ours_as_arrays(folder: Path) -> dict[str, Encoder]:
    tokenizer = Tokenizer.load(folder)
    return {
        "one thread": lambda documents: [tokenizer.encode_array(d) for d in documents],
        "batch": lambda documents: tokenizer.encode_batch_arrays(documents, threads=THREADS),
    }


def tiktoken(folder: Path) -> dict[str, Encoder]:
    import tiktoken as package

    tokenizer = Tokenizer.load(folder)
    special = set(tokenizer.special_tokens.values())
    ranks = {tokenizer.token_bytes(i): i for i in range(len(tokenizer)) if i not in special}
    encoding = package.Encoding("bench", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return {
        "one thread": lambda documents: [encoding.encode_ordinary(d) for d in documents],
        "batch": lambda documents: encoding.encode_ordinary_batch(documents, num_threads=THREADS),
    }


def tokenizers(folder: Path) -> dict[str, Encoder]:
    import tokenizers as package

    encoder = package.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        "one thread": lambda documents: [encoder.encode(d).ids for d in documents],
        "batch": lambda documents: [e.ids for e in encoder.encode_batch(documents)],
    }


def splintr(folder: Path) -> dict[str, Encoder]:
    import splintr as package

    encoder = package.from_json(str(folder / "tokenizer.json"))
    return {
        "one thread": lambda documents: [encoder.encode(d) for d in documents],
        "batch": lambda documents: encoder.encode_batch(documents),
    }


def tokie(folder: Path) -> dict[str, Encoder]:
    import tokie as package

    encoder = package.Tokenizer.from_json(str(folder / "tokenizer.json"))
    return {
        "one thread": lambda documents: [encoder.encode(d).ids for d in documents],
        "batch": lambda documents: [e.ids for e in encoder.encode_batch(documents)],
    }


CANDIDATES: dict[str, tuple[Callable[[Path], dict[str, Encoder]], str]] = {
    "gpt2": (ours, "gpt2"),
    "gpt2 (arrays)": (ours_as_arrays, "gpt2"),
    "tiktoken": (tiktoken, "tiktoken"),
    "tokenizers": (tokenizers, "tokenizers"),
    "splintr": (splintr, "splintr-rs"),
    "tokie": (tokie, "tokie"),
}


def vocabulary(given: Path | None, into: Path) -> Path:
    """A folder with tokenizer.json of the vocabulary to measure with."""
    real = texts.SHARED / "tokenizer"
    if given is None and not real.is_dir():
        corpus = into / "corpus.txt"
        corpus.write_text("".join(texts.english(4_000_000) + texts.code(2_000_000)), encoding="utf-8")
        tokenizer = Tokenizer.train([corpus], 30_000)
    else:
        tokenizer = Tokenizer.load(given or real)
    tokenizer.save(into, ["tokenizer.json"])
    return into


def present(folder: Path, wanted: set[str]) -> dict[str, dict[str, Encoder]]:
    found = {}
    for name, (make, package) in CANDIDATES.items():
        if wanted and name not in wanted:
            continue
        try:
            version(package)
            found[name] = make(folder)
        except (ImportError, PackageNotFoundError):
            print(f"{name}: not installed, left out", file=sys.stderr)
    return found


@dataclass(frozen=True)
class Times:
    """Of one round: on the clock, and of all processors together, which does not count what others do."""

    clock: float
    processor: float


def timed(encode: Encoder, documents: list[str]) -> Times:
    clock, processor = time.perf_counter(), time.process_time()
    encode(documents)
    return Times(time.perf_counter() - clock, time.process_time() - processor)


def measure(
    encoders: dict[str, dict[str, Encoder]], mode: str, documents: list[str], rounds: int, patience: float
) -> dict[str, list[Times]]:
    """The times of each round for each name. One round warms up; who needs more than `patience` seconds gets
    no other."""
    times: dict[str, list[Times]] = {}
    first = {name: timed(modes[mode], documents) for name, modes in encoders.items()}
    names = [name for name in encoders if first[name].clock <= patience]
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times.setdefault(name, []).append(timed(encoders[name][mode], documents))
    return {name: times.get(name, [taken]) for name, taken in first.items()}


def differing(encoders: dict[str, dict[str, Encoder]], mode: str, documents: list[str]) -> set[str]:
    """Whose ids of the first documents are not ours."""
    few = documents[:20]
    results = {name: [list(map(int, ids)) for ids in modes[mode](few)] for name, modes in encoders.items()}
    return {name for name, ids in results.items() if ids != results["gpt2"]}


def row(
    text: str, mode: str, documents: list[str], times: dict[str, list[Times]], wrong: set[str]
) -> dict[str, object]:
    """Print the rows of one text and mode; returns them for the JSON line."""
    size = sum(len(d.encode()) for d in documents) / 1e6
    clock = {name: [size / t.clock for t in taken] for name, taken in times.items()}
    middle = {name: statistics.median(speeds) for name, speeds in clock.items()}
    processor = {name: statistics.median(size / t.processor for t in taken) for name, taken in times.items()}
    for name, speeds in clock.items():
        spread = f"{min(speeds):.1f}-{max(speeds):.1f}"
        ratios = f"{middle['gpt2'] / middle[name]:6.2f}x {processor['gpt2'] / processor[name]:6.2f}x"
        mark = "  other ids" if name in wrong else ""
        speed = f"{middle[name]:8.1f}  {spread:<13} {processor[name]:8.1f}"
        print(f"{text:<15} {mode:<10} {name:<14} {speed} {ratios}{mark}", flush=True)
    rounded = {name: [round(middle[name], 2), round(processor[name], 2)] for name in times}
    return {"text": text, "mode": mode, "megabytes": round(size, 3), "mb_per_s_clock_and_processor": rounded}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--vocab", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="tokenizers to run (gpt2 is always one)")
    parser.add_argument("--texts", nargs="+", default=[])
    args = parser.parse_args()
    limit, rounds = (1_000_000, 5) if args.quick else (4_000_000, 7)
    wanted = {*args.only, "gpt2"} if args.only else set()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        encoders = present(vocabulary(args.vocab, Path(scratch)), wanted)
        columns = f"{'MB/s':>8}  {'spread':<13} {'per CPU s':>9} gpt2 is faster by (clock, CPU)"
        print(f"{'text':<15} {'mode':<10} {'tokenizer':<14} {columns}")
        for text, documents in texts.all_texts(limit).items():
            if args.texts and text not in args.texts:
                continue
            for mode in ("one thread", "batch"):
                wrong = differing(encoders, mode, documents)
                times = measure(encoders, mode, documents, rounds, patience=5.0)
                results.append(row(text, mode, documents, times, wrong))
    versions = {name: version(CANDIDATES[name][1]) for name in encoders}
    print(json.dumps({"threads": THREADS, "rounds": rounds, "versions": versions, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
