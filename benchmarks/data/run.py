"""Speed and memory of `gpt2 prepare` on a large file, beside the tokenizer alone, in one run, in turns.

    python benchmarks/data/run.py                       # 1 GB, some minutes
    python benchmarks/data/run.py --megabytes 200 --rounds 3
    python benchmarks/data/run.py --near                # near duplicates looked for, too

The file is made here: English (../shared where it is, else made-up prose) whose paragraphs are put together
anew again and again, so that no two documents are alike. "tokenizer" encodes the same text, held in memory
and in pieces of a megabyte, on as many threads, and does nothing with the ids: what prepare would take if
reading, hashing, counting and writing cost nothing. Each round runs that, prepare on the file as one
document, and prepare on its documents. The table has medians in MB/s of UTF-8 on the clock and per second of
processor time of all threads (which other work on the machine changes less), and the largest memory that a
process had; prepare is also run on a tenth of the file, to show that its memory does not grow with it. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tokenizer"))
import texts

THREADS = len(os.sched_getaffinity(0))
PIECE = 1 << 20

ALONE = f"""
import sys, time
from gpt2.tokenizer import Tokenizer
path, vocabulary, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = Tokenizer.load(vocabulary)
clock = processor = 0.0
with open(path, "rb") as file:
    while some := [piece for _ in range(64) if (piece := file.read({PIECE}))]:
        before = time.perf_counter(), time.process_time()
        tokenizer.encode_batch_arrays(some, threads=threads)
        clock += time.perf_counter() - before[0]
        processor += time.process_time() - before[1]
print(clock, processor)
"""

PREPARE = """
import sys, time
from gpt2.tokenizer import Tokenizer
from gpt2.train.data import Preparation, prepare
path, vocabulary, threads, output, near, one = sys.argv[1:]
tokenizer = Tokenizer.load(vocabulary)
separator = None if one == "one" else "<|endoftext|>"
settings = Preparation(validation=0.005, separator=separator, near_duplicates=float(near) or None)
stages = {}
def note(progress):
    stages[progress.stage] = time.perf_counter() - before[0]
before = time.perf_counter(), time.process_time()
prepare(path, tokenizer, output, settings, threads=int(threads), progress=note)
print(time.perf_counter() - before[0], time.process_time() - before[1], stages["tokenise"])
"""


def make_file(path: Path, size: int) -> None:
    """`size` bytes of English, in documents that no two of are alike."""
    rng = random.Random(1)
    paragraphs = [p for d in texts.english(40_000_000) for p in d.split("\n") if len(p) > 60]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            document = "\n\n".join(rng.choices(paragraphs, k=rng.randint(2, 40))) + "\n<|endoftext|>\n"
            written += len(document.encode())
            file.write(document)


def measured(program: str, *arguments: object) -> tuple[list[float], float]:
    """What the program prints, and the most memory that it had, in MB."""
    code = f"{program}\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = [float(word) for word in done.stdout.split()]
    return numbers[:-1], numbers[-1]


def rounds(
    path: Path, vocabulary: Path, scratch: Path, count: int, near: float
) -> Iterator[dict[str, list[float]]]:
    """Clock and processor seconds of each, and the memory, round by round."""
    for _ in range(count):
        alone, memory = measured(ALONE, path, vocabulary, THREADS)
        found = {"tokenizer": [*alone, memory]}
        for name in ("one document", "documents"):
            prepared, memory = measured(PREPARE, path, vocabulary, THREADS, scratch / "out", near, name[:3])
            shutil.rmtree(scratch / "out")
            found[name] = [*prepared, memory]
        yield found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--near", action="store_true", help="look for near duplicates (0.8)")
    parser.add_argument("--file", type=Path, help="measure on this file, made by an earlier run with --keep")
    parser.add_argument("--keep", type=Path, help="only make the file, here")
    parser.add_argument(
        "--scratch", type=Path, help="where the files are made; a temporary folder when absent"
    )
    args = parser.parse_args()
    near = 0.8 if args.near else 0.0
    if args.keep:
        make_file(args.keep, args.megabytes * 1_000_000)
        return 0
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        vocabulary = texts.SHARED / "tokenizer"
        if not vocabulary.is_dir():
            from gpt2.weights.hub import resolve

            vocabulary = resolve(None)
        path, tenth = args.file or scratch / "large.txt", scratch / "tenth.txt"
        if args.file is None:
            make_file(path, args.megabytes * 1_000_000)
        with path.open("rb") as file:
            tenth.write_bytes(file.read(path.stat().st_size // 10).rpartition(b"\n")[0])
        size = path.stat().st_size / 1e6
        found = list(rounds(path, vocabulary, scratch, args.rounds, near))
        _, little = measured(PREPARE, tenth, vocabulary, THREADS, scratch / "little", near, "doc")
    result: dict[str, object] = {
        "megabytes": round(size),
        "threads": THREADS,
        "rounds": args.rounds,
        "near": near,
    }
    print(f"{'':<12}{'MB/s':>8}  {'spread':<14}{'per CPU s':>10}{'memory, MB':>12}")
    for name in found[0]:
        clock = [size / one[name][0] for one in found]
        processor = statistics.median(size / one[name][1] for one in found)
        memory = max(one[name][-1] for one in found)
        spread = f"{min(clock):.0f}-{max(clock):.0f}"
        print(f"{name:<12}{statistics.median(clock):>8.1f}  {spread:<14}{processor:>10.1f}{memory:>12.0f}")
        result[name] = [round(statistics.median(clock), 1), round(processor, 1), round(memory)]
        if len(found[0][name]) > 3:
            stage = statistics.median(size / one[name][2] for one in found)
            print(f"{'':<12}{stage:>8.1f}  to the end of tokenising")
    result["memory of a tenth"] = round(little)
    print(f"{'documents, of a tenth of the file':<44}{little:>12.0f}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
