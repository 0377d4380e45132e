"""R7: hours of mixed load, and the memory does not grow.

    python benchmarks/reliability/soak.py --minutes 30

Threads generate, stream and leave, cancel through asyncio, ask for logits, and make errors, on one engine.
Every ten seconds the resident memory is written down; the slope is the least-squares line after the first
third.
Exit 1 above --limit MB per hour, or when the engine is not empty at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time

import numpy as np

import gpt2
from gpt2 import errors


def resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as fields:
        return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def work(lm: gpt2.LanguageModel, seed: int, until: float) -> None:
    bits = random.Random(seed)

    async def leave_early(ids: list[int]) -> None:
        chunks = lm.astream(ids, max_new_tokens=200, overflow="slide")
        async for _ in chunks:
            if bits.random() < 0.1:
                break
        await chunks.aclose()  # type: ignore[attr-defined]

    while time.monotonic() < until:
        ids = [bits.randrange(lm.config.vocab_size) for _ in range(bits.randint(1, lm.config.n_positions))]
        kind = bits.randrange(6)
        if kind == 0:
            lm.generate([ids, ids[: len(ids) // 2 + 1]], n=2, max_new_tokens=20, logprobs=2)
        elif kind == 1:
            stream = lm.stream(ids, max_new_tokens=100, salt=str(bits.random()))
            next(stream)
            stream.close()  # type: ignore[attr-defined]
        elif kind == 2:
            asyncio.run(leave_early(ids))
        elif kind == 3:
            lm.logits(ids[:50])
        elif kind == 4:
            with contextlib.suppress(errors.InvalidRequest):
                lm.generate([lm.config.vocab_size])
        else:
            with contextlib.suppress(errors.DeadlineExpired):
                lm.generate(ids, timeout=1e-3, max_new_tokens=10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, default=4, help="callers")
    parser.add_argument("--limit", type=float, default=1.0, help="MB per hour")
    args = parser.parse_args()
    lm = gpt2.load(args.model, weights=args.weights, max_batch=16, cache_bytes=64 << 20)
    began = time.monotonic()
    until = began + 60 * args.minutes
    callers = [threading.Thread(target=work, args=(lm, k, until)) for k in range(args.threads)]
    for caller in callers:
        caller.start()
    hours, megabytes = [], []
    while time.monotonic() < until:
        time.sleep(min(10, max(0.1, args.minutes)))
        hours.append((time.monotonic() - began) / 3600)
        megabytes.append(resident_mb())
        print(f"\r{60 * hours[-1]:.1f} min, {megabytes[-1]:.1f} MB", end="", file=sys.stderr)
    for caller in callers:
        caller.join()
    print(file=sys.stderr)
    first = len(hours) // 3
    slope = float(np.polyfit(hours[first:], megabytes[first:], 1)[0])
    stats = lm.stats()
    print(
        json.dumps(
            {
                "minutes": args.minutes,
                "mb_per_hour": round(slope, 3),
                "mb_first": megabytes[first],
                "mb_last": megabytes[-1],
                "requests": stats.requests,
                "tokens": stats.tokens_chosen,
                "cancelled": stats.cancelled,
                "preemptions": stats.preemptions,
            }
        )
    )
    return int(slope > args.limit or stats.running + stats.waiting + stats.blocks_used > 0)


if __name__ == "__main__":
    sys.exit(main())
