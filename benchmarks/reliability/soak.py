"""R7: hours of mixed load, and the memory does not grow.

    python benchmarks/reliability/soak.py --minutes 30
    python benchmarks/reliability/soak.py --each 150 --model SMALL    what one request of each kind leaves

Threads generate, stream and leave, cancel through asyncio, ask for logits and hidden states, load and unload
a second engine, and make errors. Every few seconds all of them pause; then the engine must be empty, and what
is in use is written down: resident memory, what the C allocator has given out, and blocks of Python's
allocator. The slopes are least-squares lines after the first half. The first of them is what a user sees; the
other two say where it comes from (a leak shows in them; holes in the allocator's arenas, and threads' arenas,
do not).
--each runs the kinds one after the other and counts what malloc has given out and not got back after each:
a leak of some bytes a request shows within minutes, on a small model best. Exit 1 above 100 bytes.
Exit 1 when resident memory grows by more than --limit MB per hour, or the engine is not empty at a pause.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np

import gpt2
from gpt2 import errors


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def allocated_mb() -> float:
    """What malloc has given out and not got back, mapped blocks included; 0 where the C library does not
    say."""
    call = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if call is None:
        return 0.0
    call.restype = _Mallinfo
    info = call()
    return float(info.uordblks + info.hblkhd) / 2**20


def resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Sample:
    hours: float
    resident_mb: float
    allocated_mb: float
    python_blocks: float


class Pause:
    """Where callers stop between requests while somebody looks at the process."""

    def __init__(self, callers: int) -> None:
        self._changed = threading.Condition()
        self._callers, self._stopped, self._wanted = callers, 0, False

    def go_on(self) -> bool:
        with self._changed:
            if self._wanted:
                self._stopped += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._wanted)
                self._stopped -= 1
        return True

    def leave(self) -> None:
        with self._changed:
            self._callers -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def everybody(self) -> Iterator[None]:
        with self._changed:
            self._wanted = True
            self._changed.wait_for(lambda: self._stopped == self._callers)
        try:
            yield
        finally:
            with self._changed:
                self._wanted = False
                self._changed.notify_all()


class Caller:
    """One who asks for all kinds of things, by chance."""

    def __init__(self, lm: gpt2.LanguageModel, seed: int) -> None:
        self._lm, self._bits = lm, random.Random(seed)

    def prompt(self) -> list[int]:
        config = self._lm.config
        return [
            self._bits.randrange(config.vocab_size) for _ in range(self._bits.randint(1, config.n_positions))
        ]

    def anything(self) -> None:
        kind = self._bits.choice(KINDS)
        if kind is not Caller.load or self._bits.random() < 0.1:
            kind(self, self.prompt())

    def generate(self, ids: list[int]) -> None:
        self._lm.generate([ids, ids[: len(ids) // 2 + 1]], n=2, max_new_tokens=20, logprobs=2)

    def leave(self, ids: list[int]) -> None:
        stream = self._lm.stream(ids, max_new_tokens=100, salt=str(self._bits.random()))
        next(stream, None)
        stream.close()  # type: ignore[attr-defined]

    def leave_async(self, ids: list[int]) -> None:
        async def some() -> None:
            chunks = self._lm.astream(ids, max_new_tokens=200, overflow="slide")
            async for _ in chunks:
                if self._bits.random() < 0.1:
                    break
            await chunks.aclose()  # type: ignore[attr-defined]

        asyncio.run(some())

    def look_inside(self, ids: list[int]) -> None:
        self._lm.logits(ids[:50])
        self._lm.hidden_states(ids[:70])

    def err(self, ids: list[int]) -> None:
        with contextlib.suppress(errors.InvalidRequest):
            self._lm.generate([*ids[:1], self._lm.config.vocab_size])

    def be_late(self, ids: list[int]) -> None:
        with contextlib.suppress(errors.DeadlineExpired):
            self._lm.generate(ids, timeout=1e-4, max_new_tokens=10)

    def drive(self, ids: list[int]) -> None:
        self._lm.generate(ids[: len(ids) // 2 + 1], num_beams=3, n=2, max_new_tokens=8)

    def load(self, ids: list[int]) -> None:
        gpt2.load(self._lm.path, threads=2).generate(ids[:20], max_new_tokens=3)


KINDS = (
    Caller.generate, Caller.leave, Caller.leave_async, Caller.look_inside, Caller.err, Caller.be_late,
    Caller.drive, Caller.load,
)  # fmt: skip


def work(caller: Caller, until: float, pause: Pause) -> None:
    while pause.go_on() and time.monotonic() < until:
        caller.anything()
    pause.leave()


def one_by_one(lm: gpt2.LanguageModel, count: int) -> int:
    """Each kind alone: what a request leaves behind, once everything is warm."""
    caller, worst = Caller(lm, 1), 0.0
    for kind in KINDS:
        rounds = []
        for _ in range(5):
            before = sample(lm, 0.0)
            for _ in range(count):
                kind(caller, caller.prompt())
            after = sample(lm, 0.0)
            rounds.append(
                [
                    (after.allocated_mb - before.allocated_mb) * 2**20 / count,
                    (after.python_blocks - before.python_blocks) / count,
                ]
            )
        left = statistics.median(one[0] for one in rounds[2:])
        worst = max(worst, left)
        said = ", ".join(f"{bytes_:.0f} B {blocks:+.2f} blocks" for bytes_, blocks in rounds)
        print(f"{kind.__name__:12} {left:8.1f} B a request  (rounds of {count}: {said})", flush=True)
    return int(worst > 100)


def sample(lm: gpt2.LanguageModel, began: float) -> Sample:
    """While nobody calls. What was left to a background step ends within that step."""
    deadline = time.monotonic() + 10
    while (stats := lm.stats()).blocks_used and time.monotonic() < deadline:
        time.sleep(0.01)
    if stats.running + stats.waiting + stats.blocks_used:
        raise SystemExit(f"nobody calls, and the engine is not empty: {stats}")
    gc.collect()
    hours = (time.monotonic() - began) / 3600
    return Sample(hours, resident_mb(), allocated_mb(), float(sys.getallocatedblocks()))


def per_hour(samples: list[Sample], name: str) -> float:
    hours = [s.hours for s in samples]
    return round(float(np.polyfit(hours, [getattr(s, name) for s in samples], 1)[0]), 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, default=4, help="callers")
    parser.add_argument("--limit", type=float, default=1.0, help="MB per hour")
    parser.add_argument("--json", help="write every sample there")
    parser.add_argument(
        "--each", type=int, metavar="REQUESTS", help="instead: each kind alone, so many times"
    )
    args = parser.parse_args()
    lm = gpt2.load(args.model, weights=args.weights, max_batch=16, cache_bytes=16 << 20)
    if args.each:
        return one_by_one(lm, args.each)
    began = time.monotonic()
    until = began + 60 * args.minutes
    pause = Pause(args.threads)
    callers = [threading.Thread(target=work, args=(Caller(lm, k), until, pause)) for k in range(args.threads)]
    for caller in callers:
        caller.start()
    samples: list[Sample] = []
    while time.monotonic() < until:
        time.sleep(min(10, max(0.1, args.minutes)))
        with pause.everybody():
            samples.append(sample(lm, began))
        now = samples[-1]
        print(
            f"\r{60 * now.hours:.1f} min, {now.resident_mb:.1f} MB resident, {now.allocated_mb:.2f} MB "
            f"allocated, {now.python_blocks:.0f} blocks of Python", end="", file=sys.stderr,
        )  # fmt: skip
        if args.json:
            with open(args.json, "w", encoding="utf-8") as out:
                json.dump([asdict(s) for s in samples], out)
    for caller in callers:
        caller.join()
    print(file=sys.stderr)
    warm = samples[len(samples) // 2 :]
    slopes = {f"{f.name}_per_hour": per_hour(warm, f.name) for f in fields(Sample) if f.name != "hours"}
    stats = lm.stats()
    print(
        json.dumps(
            {
                "minutes": args.minutes,
                **slopes,
                "resident_mb": [warm[0].resident_mb, warm[-1].resident_mb],
                "cache_mb": stats.cache_bytes / 2**20,
                "requests": stats.requests,
                "tokens": stats.tokens_chosen,
                "cancelled": stats.cancelled,
                "preemptions": stats.preemptions,
            }
        )
    )
    return int(slopes["resident_mb_per_hour"] > args.limit)


if __name__ == "__main__":
    sys.exit(main())
