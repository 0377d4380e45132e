"""R5: requests in random company get, to the bit, what they get alone.

    python benchmarks/reliability/batch_equals_single.py --requests 10000
    python benchmarks/reliability/batch_equals_single.py --requests 300 --weights int8 --cache int8

Each request runs alone on one thread, in whole prompts and without the prefix cache; then in a random mix of
1 to 64 that begin while others run, on an engine that is drawn anew for each mix: 1 or 2 threads, with and
without the prefix cache, prompts cut into chunks of any size, and often so little memory that sequences are
preempted. Tokens, log-probabilities and the most probable tokens with theirs are compared exactly; one
request in eight has the log-probabilities of the whole vocabulary compared at every token. The widths of
weights and caches take turns unless --weights or --cache names one. Exit 1 at the first difference.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

import gpt2

LENGTHS = [1, 2, 31, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193]
WIDTHS = [
    ("bfloat16", "float32"), ("int8", "int8"), ("float32", "float32"), ("int4", "int8"), ("bfloat16", "int8"),
    ("int8", "float32"), ("float32", "bfloat16"), ("int4", "bfloat16"),
]  # fmt: skip
"""(weights, cache); each weight beside two caches, each cache beside two weights or three."""

Request: TypeAlias = dict[str, Any]
Answers: TypeAlias = list[gpt2.Completion]


def random_request(bits: random.Random, lm: gpt2.LanguageModel) -> Request:
    """A prompt whose beginning others share, and options of every kind."""
    window = lm.config.n_positions
    upto = window if bits.random() < 0.2 else 130  # mostly short ones, so that there are many
    length = min(bits.choice(LENGTHS) if bits.random() < 0.5 else bits.randint(1, upto), window)
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
        "salt": bits.choice(["", "", "another"]),
        "whole": bits.random() < 1 / 8,
    }


def stream(lm: gpt2.LanguageModel, request: Request) -> Iterator[gpt2.Chunk]:
    """lm.stream() with the log-probabilities of three tokens or, beyond what its options allow, of all."""
    options = {key: value for key, value in request.items() if key not in ("prompt", "salt", "whole")}
    params = gpt2.SamplingParams(**options, logprobs=3, ignore_eos=True)
    generation = lm._generation(params, request["salt"], None)
    if request["whole"]:
        generation._native_params.logprobs = lm.config.vocab_size
    for _, chunk in generation.run(lm._encoded([request["prompt"]], params)):
        yield chunk


def alone(lm: gpt2.LanguageModel, request: Request) -> Answers:
    found = [chunk.completion for chunk in stream(lm, request) if chunk.completion is not None]
    return sorted(found, key=lambda c: c.index)


def together(lm: gpt2.LanguageModel, mix: list[Request], bits: random.Random) -> list[Answers]:
    """All requests of a mix at once, begun at random moments while others run."""
    waiting = list(enumerate(mix))
    running: list[tuple[int, Iterator[gpt2.Chunk]]] = []
    results: list[Answers] = [[] for _ in mix]
    while waiting or running:
        for _ in range(bits.randint(0 if running else 1, len(waiting)) if waiting else 0):
            at, request = waiting.pop(0)
            running.append((at, stream(lm, request)))
        at, chunks = bits.choice(running)
        for _ in range(bits.randint(1, 6)):
            if (chunk := next(chunks, None)) is None:
                running.remove((at, chunks))
                break
            if chunk.completion is not None:
                results[at].append(chunk.completion)
    return [sorted(found, key=lambda c: c.index) for found in results]


class Engines:
    """The engines of one width: the one for requests alone, and those for company."""

    def __init__(self, model: str | None, how: dict[str, Any], bits: random.Random) -> None:
        self.single = gpt2.load(model, threads=1, prefix_cache=False, **how)
        window = -(-self.single.config.n_positions // 64)
        little = self.single.stats().block_bytes * window
        self.many = {}
        for threads in (1, 2):
            for prefix_cache in (True, False):
                for cache_bytes in (None, little):
                    step_tokens = bits.choice([bits.randint(1, 32), bits.randint(33, 255), 256])
                    name = f"{how} {threads=} {prefix_cache=} {cache_bytes=} {step_tokens=}"
                    self.many[name] = gpt2.load(
                        model, threads=threads, prefix_cache=prefix_cache, cache_bytes=cache_bytes,
                        step_tokens=step_tokens, **how,
                    )  # fmt: skip

    def check(self, mix: list[Request], bits: random.Random) -> str | None:
        """What differs, if anything does."""
        expected = [alone(self.single, request) for request in mix]
        name, lm = bits.choice(list(self.many.items()))
        for request, one, got in zip(mix, expected, together(lm, mix, bits), strict=True):
            if one != got:
                return f"{name}: {request}"
        if (used := lm.stats().blocks_used) != 0:
            return f"{name}: {used} blocks are still in use"
        return None

    def counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for lm in self.many.values():
            stats = lm.stats()
            for name in ("prefix_hit_tokens", "preemptions", "tokens_chosen", "steps"):
                total[name] += getattr(stats, name)
        return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    parser.add_argument(
        "--weights", help="float32, bfloat16, int8 or int4; with --cache absent, beside its own"
    )
    parser.add_argument("--cache", help="float32, bfloat16 or int8")
    parser.add_argument("--isa")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    widths = WIDTHS
    if args.weights or args.cache:
        widths = [(args.weights or "auto", args.cache or "auto")]
    bits = random.Random(args.seed)
    shares = [args.requests * (i + 1) // len(widths) for i in range(len(widths))]
    done, began, total = 0, time.monotonic(), Counter[str]()
    for (weights, cache), last in zip(widths, shares, strict=True):
        engines = Engines(args.model, {"weights": weights, "cache": cache, "isa": args.isa}, bits)
        while done < last:
            mix = [random_request(bits, engines.single) for _ in range(min(bits.randint(1, 64), last - done))]
            if (different := engines.check(mix, bits)) is not None:
                print(f"\nDIFFERENT after {done} requests, {different}", file=sys.stderr)
                return 1
            done += len(mix)
            seconds = time.monotonic() - began
            print(f"\r{done} requests equal, {seconds:.0f} s ({weights}, {cache})  ", end="", file=sys.stderr)
        total += engines.counters()
    print(file=sys.stderr)
    print(
        json.dumps(
            {
                "requests": done,
                "differences": 0,
                "widths": [f"{weights}, {cache} cache" for weights, cache in widths],
                "isa": engines.single.isa,
                **total,
                "seconds": round(time.monotonic() - began),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
