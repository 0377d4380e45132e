"""What adapters cost: a batch of requests with one, several or as many adapters as requests, beside none.

    python benchmarks/adapters/run.py                       # the 124M shape with random weights
    python benchmarks/adapters/run.py --weights int8 --rank 64 --size 1
    python benchmarks/adapters/run.py --model DIR           # a checkpoint of yours; "demo" is the bundled one

Every adapter changes all four matrices of every block. Each batch encodes prompts of --prompt tokens and then
generates --tokens for each request; both parts are timed apart, in turn with the other cases, --rounds times;
the median and the spread are shown. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2 import SamplingParams, _native
from gpt2.engine.native_params import native_params
from gpt2.weights.adapters import Adapter, LowRank, linear_shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shapes import random_model


def random_adapter(config: gpt2.GPT2Config, rank: int, seed: int, dora: bool) -> Adapter:
    draws = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return draws.standard_normal(shape, dtype=np.float32) * np.float32(0.02)

    modules = {
        name: LowRank(
            a=normal(rank, inputs), b=normal(outputs, rank), alpha=2.0 * rank,
            magnitude=np.ones(outputs, np.float32) if dora else None,
        )
        for name, (inputs, outputs) in linear_shapes(config).items()
    }  # fmt: skip
    return Adapter(modules=modules)


def seconds(lm: gpt2.LanguageModel, prompts: Any, tokens: int, adapters: list[str | None]) -> list[float]:
    """Until every request has its first token, and from there until all have their last."""
    box = _native.Mailbox(lm._native)
    params = native_params(SamplingParams(temperature=0.8), 1, frozenset())
    begun = time.perf_counter()
    for prompt, name in zip(prompts, adapters, strict=True):
        box.submit(prompt, params, tokens, share_prefix=False, adapter=lm._adapters.get(name))
    waiting, first = len(prompts), 0.0
    seen: set[int] = set()
    while events := box.wait():
        seen.update(event[0] for event in events)
        if len(seen) == waiting and not first:
            first = time.perf_counter() - begun
    return [first, time.perf_counter() - begun - first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or random_model(Path(scratch))
        lm = gpt2.load(None if model == "demo" else model, weights=options.weights, threads=options.threads)
    size = options.size
    for at in range(size):
        lm.load_adapter(random_adapter(lm.config, options.rank, at, False), f"lora {at}")
    lm.load_adapter(random_adapter(lm.config, options.rank, 0, True), "dora")
    cases: dict[str, list[str | None]] = {"none": [None] * size, "one": ["lora 0"] * size}
    if size > 1:
        cases["half of them one"] = ["lora 0" if at % 2 else None for at in range(size)]
        cases["four"] = [f"lora {at % 4}" for at in range(size)]
        cases[f"{size}, each its own"] = [f"lora {at}" for at in range(size)]
    cases["one DoRA"] = ["dora"] * size
    draws = np.random.default_rng(2)
    prompts = draws.integers(0, lm.config.vocab_size, (size, options.prompt)).astype(np.int32)
    found: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, adapters in cases.items():
            found[name].append(seconds(lm, prompts, options.tokens, adapters))
    report(lm, options, found)


def report(lm: gpt2.LanguageModel, options: Any, found: dict[str, list[list[float]]]) -> None:
    steps = options.tokens - 1
    print(
        f"{lm.weights} weights, {lm.isa}, {lm.threads} threads, batch of {options.size}, "
        f"rank {options.rank}: {lm.adapters['lora 0'].bytes / 1e6:.1f} MB an adapter"
    )
    print(f"{'adapters':<20}{'prompts, ms':>12}{'':>16}{'a step, ms':>12}{'':>16}{'of none':>9}")
    medians: dict[str, Any] = {}
    for name, times in found.items():
        first = [1e3 * one[0] for one in times]
        step = [1e3 * one[1] / steps for one in times]
        medians[name] = [round(statistics.median(first), 2), round(statistics.median(step), 3)]
        of_none = medians[name][1] / medians["none"][1]
        print(
            f"{name:<20}{medians[name][0]:>12.1f}{f'({min(first):.1f}-{max(first):.1f})':>16}"
            f"{medians[name][1]:>12.2f}{f'({min(step):.2f}-{max(step):.2f})':>16}{of_none:>9.1%}"
        )
    print(json.dumps({
        "benchmark": "adapters", "model": lm.name, "weights": lm.weights, "rank": options.rank,
        "size": options.size, "threads": lm.threads, "prompts_ms_step_ms": medians,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
