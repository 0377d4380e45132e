"""R5: requests in random company get, to the bit, what they get alone.

    python benchmarks/reliability/batch_equals_single.py --requests 10000
    python benchmarks/reliability/batch_equals_single.py --requests 300 --weights int8 --cache int8

Each request runs alone on one thread without the prefix cache, then in a random mix of 1 to 64 with 1 and 2
threads, with and without the prefix cache, and with so little memory that sequences are preempted. Tokens,
log-probabilities and the most probable tokens with theirs are compared exactly. Exit 1 at the first
difference.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any

import gpt2

LENGTHS = [1, 2, 31, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193]


def random_request(bits: random.Random, lm: gpt2.LanguageModel) -> dict[str, Any]:
    """A prompt whose beginning others share, and options of every kind."""
    window = lm.config.n_positions
    length = min(bits.choice(LENGTHS) if bits.random() < 0.5 else bits.randint(1, window), window)
    start = random.Random(bits.randint(0, 3))
    ids = [start.randrange(lm.config.vocab_size) for _ in range(length)]
    ids[-1] = bits.randrange(lm.config.vocab_size)
    return {
        "prompt": ids,
        "seed": bits.getrandbits(63),
        "temperature": bits.choice([0, 0.7, 1.0, 1.5]),
        "repetition_penalty": bits.choice([1.0, 1.0, 1.2]),
        "max_new_tokens": bits.choice([1, 2, 8, 24]),
        "overflow": bits.choice(["stop", "slide"]),
        "n": bits.choice([1, 1, 1, 2, 3]),
        "logprobs": 3,
        "ignore_eos": True,
    }


def as_list(result: gpt2.Completion | list[gpt2.Completion]) -> list[gpt2.Completion]:
    return result if isinstance(result, list) else [result]


def together(lm: gpt2.LanguageModel, mix: list[dict[str, Any]], bits: random.Random) -> list[Any]:
    """All requests of a mix at once, begun at random moments while others run."""
    waiting = list(enumerate(mix))
    running: list[tuple[int, Any]] = []
    results: list[list[gpt2.Completion]] = [[] for _ in mix]
    while waiting or running:
        for _ in range(bits.randint(0 if running else 1, len(waiting)) if waiting else 0):
            at, request = waiting.pop(0)
            options = {key: value for key, value in request.items() if key != "prompt"}
            running.append((at, lm.stream(request["prompt"], **options)))
        at, stream = bits.choice(running)
        for _ in range(bits.randint(1, 6)):
            if (chunk := next(stream, None)) is None:
                running.remove((at, stream))
                break
            if chunk.completion is not None:
                results[at].append(chunk.completion)
    return [sorted(found, key=lambda c: c.index) for found in results]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--cache", default="auto")
    parser.add_argument("--isa")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    how: dict[str, Any] = {"weights": args.weights, "cache": args.cache, "isa": args.isa}
    single = gpt2.load(args.model, threads=1, prefix_cache=False, **how)
    window = -(-single.config.n_positions // 64)
    little = single.stats().block_bytes * window
    engines = {
        f"threads={threads} prefix_cache={prefix} cache_bytes={size}": gpt2.load(
            args.model, threads=threads, prefix_cache=prefix, cache_bytes=size, **how
        )
        for threads in (1, 2)
        for prefix in (True, False)
        for size in (None, little)
    }
    bits = random.Random(args.seed)
    done, began = 0, time.monotonic()
    while done < args.requests:
        mix = [random_request(bits, single) for _ in range(min(bits.randint(1, 64), args.requests - done))]
        alone = [as_list(single.generate(**request)) for request in mix]
        name, lm = bits.choice(list(engines.items()))
        for at, (expected, got) in enumerate(zip(alone, together(lm, mix, bits), strict=True)):
            if got != expected:
                print(f"DIFFERENT after {done + at} requests, {name}: {mix[at]}", file=sys.stderr)
                return 1
        done += len(mix)
        print(f"\r{done} requests equal, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    stats = [lm.stats() for lm in engines.values()]
    print(
        json.dumps(
            {
                "requests": done,
                "differences": 0,
                "weights": single.weights,
                "isa": single.isa,
                "prefix_hit_tokens": sum(s.prefix_hit_tokens for s in stats),
                "preemptions": sum(s.preemptions for s in stats),
                "seconds": round(time.monotonic() - began),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
