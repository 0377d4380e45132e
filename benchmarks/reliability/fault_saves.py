"""R12 and R13: whatever a disk or a power switch does in the middle of a save, a whole checkpoint is there.

    python benchmarks/reliability/fault_saves.py
    python benchmarks/reliability/fault_saves.py --every 7        a seventh of the cases

strace runs a process that saves the checkpoint of step 2 beside those of steps 0 and 1, and makes one system
call of that save fail with EIO or ENOSPC, or kills the process when it is made: every openat, write, fsync,
rename, close, mkdir and so on in turn. After each, the newest whole checkpoint must be that of step 2, or
that of step 1 where the save did not say that it was done, with the very arrays that were saved; and the next
save must succeed. Before that, the log of an undisturbed save is read for its order: every file is synced
after its last write and before the rename, its folder too, the folder above after it, and only then is
anything deleted.

Needs strace, and the right to trace. Prints a line of JSON; exit 1 at the first lost checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import CheckpointError
from gpt2.train.checkpoint import Store

CALLS = (
    "openat", "write", "fsync", "rename", "close", "mkdir", "rmdir", "unlink", "unlinkat", "chmod",
    "ftruncate", "pwrite64", "flock", "lseek", "newfstatat", "fstat", "getdents64", "read", "fcntl", "ioctl",
)  # fmt: skip
FAULTS = ("error=EIO", "error=ENOSPC", "signal=KILL")
BEGIN, DONE = "save-begins", "save-is-done"


def parts(step: int) -> dict[str, dict[str, Any]]:
    return {
        "model": {"w": np.full((50, 40), step, np.float32)},
        "optimizer": {"m:w": np.arange(1000.0) * step, "step:w": np.float32(step)},
    }


def save(folder: Path) -> None:
    """What is traced. The two names that do not exist mark the beginning and the end in the log."""
    import gc

    gc.disable()
    os.access(BEGIN, os.F_OK)
    try:
        with Store(folder).locked() as store:
            store.save(2, parts(2), {"best_step": None})
    except CheckpointError:
        sys.exit(3)
    os.access(DONE, os.F_OK)


def prepared(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for step in (0, 1):
        Store(folder).save(step, parts(step), {"best_step": None})


def traced(folder: Path, log: Path, *more: str) -> int:
    """Run save() under strace; its exit code."""
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(log),
        "-e",
        "trace=access,faccessat2," + ",".join(CALLS),
        *more,
    ]
    fixed = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, sys.executable, __file__, "--save", str(folder)],
        env=os.environ | fixed,
        capture_output=True,
        check=False,
    )
    return done.returncode


def lines_of(log: Path) -> list[tuple[str, str]]:
    """(system call, the whole line)"""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"\d+\s+(\w+)\(", line)
        if match:
            found.append((match[1], line))
    return found


def within_save(log: Path) -> dict[str, range]:
    """For each system call, which occurrences of it (from 1, of the whole process) belong to the save."""
    before: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    counter = before
    for call, line in lines_of(log):
        if BEGIN in line:
            counter = inside
        elif DONE in line:
            break
        else:
            counter[call] += 1
    return {
        call: range(before[call] + 1, before[call] + inside[call] + 1) for call in inside if call in CALLS
    }


def order_of(log: Path) -> list[str]:
    """What is wrong with the order of an undisturbed save; empty if nothing is."""
    lines = lines_of(log)
    start = next(i for i, (_, line) in enumerate(lines) if BEGIN in line)
    unsynced: set[str] = set()
    wrong, renamed, settled, files = [], False, False, 0
    for call, line in lines[start:]:
        inside = re.search(r"<([^>]*\.step-00000002\.part[^>]*)>", line)
        if call in ("write", "pwrite64") and inside:
            unsynced.add(inside[1])
        elif call == "openat" and inside and "O_CREAT" in line:
            unsynced.add(inside[1].removesuffix("(deleted)"))
        elif call == "fsync" and inside:
            files += 1
            unsynced.discard(inside[1])
        elif call == "rename" and '.step-00000002.part"' in line:
            renamed = True
            if unsynced or files < 4:  # two files of tensors, the manifest, the folder
                wrong.append(f"renamed with {sorted(unsynced)} not synced")
        elif call == "fsync" and renamed:
            settled = True
        elif call in ("unlink", "unlinkat", "rmdir", "rename") and "step-00000000" in line and not settled:
            wrong.append(f"deleted before the new one was safe: {line[:120]}")
    if not settled:
        wrong.append("the folder was not synced after the rename")
    return wrong


def check(folder: Path, said_done: bool) -> str | None:
    """What is lost, or None."""
    said: list[str] = []
    with Store(folder, say=said.append).locked() as store:
        newest = store.newest()
        if newest is None or newest.step not in (1, 2) or (said_done and newest.step != 2):
            return f"the newest is {newest and newest.step}"
        for part, tensors in parts(newest.step).items():
            found = newest.tensors(part)
            if any(not np.array_equal(found[name].array, value) for name, value in tensors.items()):
                return f"{part} of step {newest.step} has other numbers"
        if said:
            return f"a half checkpoint was visible: {said}"
        store.save(3, parts(3), {"best_step": None})
        after = store.newest()
        if after is None or after.step != 3:
            return "the next save failed"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with the N-th case")
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.save:
        save(args.save)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "checkpoints", Path(scratch) / "log"
        prepared(folder)
        if traced(folder, log) or (problem := check(folder, True)):
            print("an undisturbed save failed", file=sys.stderr)
            return 1
        if wrong := order_of(log):
            print("\n".join(wrong), file=sys.stderr)
            return 1
        cases = [(call, k, fault) for call, ks in within_save(log).items() for k in ks for fault in FAULTS]
        ends: Counter[str] = Counter()
        for call, k, fault in cases[args.first :: args.every]:
            prepared(folder)
            code = traced(folder, log, "-e", f"inject={call}:{fault}:when={k}")
            ends[
                "done"
                if code == 0
                else "refused"
                if code == 3
                else "killed"
                if fault == FAULTS[2]
                else "other"
            ] += 1
            if problem := check(folder, code == 0):
                print(f"{call} number {k}, {fault} (exit {code}): {problem}", file=sys.stderr)
                return 1
        calls = {call: len(ks) for call, ks in within_save_of(cases).items()}
    print(
        json.dumps(
            {
                "cases": len(cases[args.first :: args.every]),
                "of": len(cases),
                "calls": calls,
                "ends": ends,
                "lost": 0,
            }
        )
    )
    return 0


def within_save_of(cases: list[tuple[str, int, str]]) -> dict[str, set[int]]:
    out: dict[str, set[int]] = {}
    for call, k, _ in cases:
        out.setdefault(call, set()).add(k)
    return out


if __name__ == "__main__":
    sys.exit(main())
