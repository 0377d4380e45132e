"""Kill `prepare` with SIGKILL at moments drawn by chance, go on, and compare with what an undisturbed run
gives.

    python tests/train/data/killed.py SCRATCH VOCABULARY --kills 40 --seed 1

A moment is a call of a function, Python's or C's, in any thread: each open, write, rename and fsync has one
before it and one after. The sources are in SCRATCH/sources; each run goes on in the folder that the one
before has left. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

from gpt2.tokenizer import Tokenizer
from gpt2.train.data import Preparation, readers
from gpt2.train.data import prepare as prepare_function

prepare_module = sys.modules["gpt2.train.data.prepare"]


def small_sizes() -> None:
    """Many parts, pieces and shards out of little text."""
    readers.PIECE = 512
    sys.modules["gpt2.train.data.tokenising"].BLOCK = 1 << 11
    prepare_module.PART = 1 << 13
    os.fsync = lambda handle: None  # a kill takes nothing away that was written


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(scratch: Path, output: Path, tokenizer: Tokenizer) -> None:
    settings = Preparation(separator="<s>", near_duplicates=0.8, shard_tokens=4000, validation=0.2)
    prepare_function([scratch / "sources"], tokenizer, output, settings, threads=2)


def in_a_child(scratch: Path, output: Path, tokenizer: Tokenizer, kill_at: int | None) -> tuple[bool, int]:
    """Run it in a forked process that ends itself at its k-th call. Whether it ended well, and the calls."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        calls = itertools.count(1)

        def count(frame: object, event: str, argument: object) -> None:
            if next(calls) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        threading.setprofile(count)
        sys.setprofile(count)
        run(scratch, output, tokenizer)
        sys.setprofile(None)
        os.write(send, str(next(calls)).encode())
        os._exit(0)
    os.close(send)
    _, status = os.waitpid(child, 0)
    raw = os.read(receive, 100)
    os.close(receive)
    return status == 0, int(raw or b"0")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scratch", type=Path)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    small_sizes()
    tokenizer = Tokenizer.load(args.vocabulary)
    ended, calls = in_a_child(args.scratch, args.scratch / "whole", tokenizer, None)
    expected = contents(args.scratch / "whole")
    rng = random.Random(args.seed)
    kills = runs = wrong = 0
    while kills < args.kills and ended:
        output = args.scratch / f"killed-{runs}"
        while True:
            # Early moments kill again and again in one folder; late ones are in choosing and writing.
            moment = rng.randrange(1, calls if rng.random() < 0.5 else calls // 4)
            done, _ = in_a_child(args.scratch, output, tokenizer, moment)
            if done:
                break
            kills += 1
        runs += 1
        wrong += contents(output) != expected
    print(json.dumps({"calls": calls, "kills": kills, "runs": runs, "wrong": wrong, "files": len(expected)}))
    return 0 if ended and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
