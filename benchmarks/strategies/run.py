"""What strategies cost: a mixed batch of 32 requests beside the same batch in plain sampling.

    python benchmarks/strategies/run.py                    # the 124M shape with random weights
    python benchmarks/strategies/run.py --weights int8
    python benchmarks/strategies/run.py --model DIR        # a checkpoint of yours; "demo" is the bundled one

Speed is counted in tokens that went through the model per second (engine stats: tokens_computed), since a
beam search computes several for one of its text. Each batch is run in turn with the others, --rounds times;
the median and the spread are shown. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpt2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shapes import random_model

KINDS: dict[str, dict[str, Any]] = {
    "sampling": {"temperature": 0.8, "top_p": 0.9},
    "greedy": {"temperature": 0.0},
    "beams": {"num_beams": 4},
    "sampled beams": {"num_beams": 4, "do_sample": True, "top_k": 50},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beams": {"num_beams": 4, "force_words_ids": [[262], [[286], [284]]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "high", "repetition_penalty": 1.2},
    "guidance": {"guidance_scale": 1.5},
    "best of 3": {"best_of": 3},
}


def batch_of(kinds: list[str], size: int, vocab: int) -> list[tuple[list[int], dict[str, Any]]]:
    """`size` requests that take the kinds in turn; prompts of 16 ids, none like another."""
    draws = np.random.default_rng(2)
    return [
        (draws.integers(0, vocab, 16).tolist(), {**KINDS[kinds[at % len(kinds)]], "seed": at})
        for at in range(size)
    ]


def rate(lm: gpt2.LanguageModel, batch: list[tuple[list[int], dict[str, Any]]], tokens: int) -> float:
    """Tokens computed per second."""

    async def run() -> None:
        await asyncio.gather(
            *(
                lm.agenerate(ids, max_new_tokens=tokens, ignore_eos=True, salt=str(at), **options)
                for at, (ids, options) in enumerate(batch)
            )
        )

    before, begun = lm.stats().tokens_computed, time.perf_counter()
    asyncio.run(run())
    return (lm.stats().tokens_computed - before) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", action="store_true", help="a batch of each strategy alone, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.model:
            lm = gpt2.load(None if options.model == "demo" else options.model, weights=options.weights)
        else:
            lm = gpt2.load(random_model(Path(scratch)), weights=options.weights)
        cases = {"sampling": ["sampling"], "mixed": list(KINDS)}
        if options.each:
            cases |= {name: [name] for name in KINDS}
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            for name, kinds in cases.items():
                batch = batch_of(kinds, options.size, min(lm.config.vocab_size, 5000))
                found[name].append(rate(lm, batch, options.tokens))
    plain = statistics.median(found["sampling"])
    print(f"{f'batch of {options.size}':<22}{'tokens/s':>10}{'lowest':>10}{'highest':>10}{'of sampling':>13}")
    for name, rates in found.items():
        median = statistics.median(rates)
        print(f"{name:<22}{median:>10.0f}{min(rates):>10.0f}{max(rates):>10.0f}{median / plain:>12.0%}")
    medians = {name: round(statistics.median(rates), 1) for name, rates in found.items()}
    print(json.dumps({"benchmark": "strategies", "model": lm.name, "computed_per_s": medians}))


if __name__ == "__main__":
    main()
