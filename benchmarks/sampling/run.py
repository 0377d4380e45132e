"""How long it takes to choose one token, beside transformers and beside our readable twin.

    python benchmarks/sampling/run.py [--vocabulary 50257] [--repeats 200]

Each row is one set of options on the same logits, made to look like a language model's: most near the mean, a
few hundred high. The native sampler, numpy and transformers (its logits processors, softmax and multinomial
on 1 thread; left out where it is not installed) take turns, so that what the machine does besides falls on
all. Times are microseconds from Python, median and 90th percentile. Prints a table and, last, one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2 import _native
from gpt2.decoding import SamplingParams, sampling
from gpt2.engine.native_params import native_params

HISTORY = 1024

CASES = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "temperature 0.8": {"temperature": 0.8},
    "top_k 40": {"temperature": 0.8, "top_k": 40},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "top_k 40, top_p 0.95": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "penalties": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    "plain, logprobs 5": {"logprobs": 5},
    "dynamic temperature": {"dynatemp_range": 0.5},
    "top_n_sigma 1": {"top_n_sigma": 1.0},
    "top_h 0.4": {"top_h": 0.4},
    "typical_p 0.9": {"typical_p": 0.9},
    "top_k 40, typical_p 0.9": {"top_k": 40, "typical_p": 0.9},
    "epsilon 3e-4": {"epsilon_cutoff": 3e-4},
    "eta 3e-4": {"eta_cutoff": 3e-4},
    "xtc 1.0": {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    "min_p 0.02, xtc 1.0": {"min_p": 0.02, "xtc_probability": 1.0, "xtc_threshold": 0.05},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "frequency, presence": {"frequency_penalty": 0.3, "presence_penalty": 0.3},
    "dry": {"dry_multiplier": 0.8},
    "no_repeat_ngram 3": {"no_repeat_ngram_size": 3},
    "300 biases": {"logit_bias": dict.fromkeys(range(300), 0.5)},
    "300 bad words": {"bad_words_ids": [[i, i + 1] for i in range(300)]},
    "suppress 300": {"suppress_tokens": list(range(300))},
    "forced token": {"forced_decoder_ids": [[HISTORY, 7]]},
}


_THEIRS = {
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
}
"""Rules that transformers_like() has."""


def model_like_logits(size: int) -> Any:
    rng = np.random.default_rng(1)
    x = rng.normal(-100, 3, size)
    x[rng.integers(0, size, 300)] += rng.normal(8, 2, 300)
    return x.astype(np.float32)


def native(logits: Any, history: list[int], params: SamplingParams) -> Callable[[int], int]:
    sampler, options = _native.Sampler(len(logits)), native_params(params, 0, frozenset())
    ids = np.asarray(history, dtype=np.int32)
    return lambda i: int(sampler.next(logits, options, ids, i)[0])


def readable(logits: Any, history: list[int], params: SamplingParams) -> Callable[[int], int]:
    return lambda i: sampling.next_token(logits, params, history=history, generated=i)


def transformers_like(logits: Any, history: list[int], params: SamplingParams) -> Callable[[int], int] | None:
    """What generate() does with one row of logits, or None where it is not installed."""
    try:
        import torch
        from transformers.generation import logits_process as hf
    except ImportError:
        return None
    torch.set_num_threads(1)
    processors: list[Any] = []
    if params.repetition_penalty != 1.0:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.no_repeat_ngram_size:
        processors.append(hf.NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size))
    if params.temperature not in (0.0, 1.0):
        processors.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(hf.MinPLogitsWarper(params.min_p))
    if params.top_h:
        processors.append(hf.TopHLogitsWarper(params.top_h))
    if params.typical_p < 1.0:
        processors.append(hf.TypicalLogitsWarper(params.typical_p))
    if params.epsilon_cutoff:
        processors.append(hf.EpsilonLogitsWarper(params.epsilon_cutoff))
    if params.eta_cutoff:
        processors.append(hf.EtaLogitsWarper(params.eta_cutoff))
    if params.bad_words_ids:
        processors.append(hf.NoBadWordsLogitsProcessor([list(ids) for ids in params.bad_words_ids], None))
    if params.suppress_tokens:
        processors.append(hf.SuppressTokensLogitsProcessor(params.suppress_tokens))
    if set(params.rules) - _THEIRS:
        return None
    row, ids = torch.from_numpy(logits)[None], torch.tensor([history])

    def choose(_: int) -> int:
        scores = row
        for processor in processors:
            scores = processor(ids, scores)
        if params.logprobs is not None:
            torch.log_softmax(row, -1).topk(params.logprobs)
        if params.temperature == 0.0:
            return int(scores.argmax())
        return int(torch.multinomial(torch.softmax(scores, -1), 1))

    return choose


def measure(ways: dict[str, Callable[[int], int]], repeats: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats):
        for name, choose in ways.items():
            start = time.perf_counter()
            choose(i)
            times[name].append((time.perf_counter() - start) * 1e6)
    return {
        name: {"median_us": statistics.median(t), "p90_us": statistics.quantiles(t, n=10)[-1]}
        for name, t in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--native-only", action="store_true", help="leave out numpy and transformers")
    arguments = parser.parse_args()
    logits = model_like_logits(arguments.vocabulary)
    history = np.random.default_rng(2).integers(0, arguments.vocabulary, HISTORY).tolist()

    results = {}
    print(f"{'microseconds, median (90 %)':28}{'native':>18}{'numpy':>18}{'transformers':>18}")
    for case, options in CASES.items():
        params = SamplingParams(**options)
        makers = {"native": native, "numpy": readable, "transformers": transformers_like}
        if arguments.native_only:
            del makers["numpy"], makers["transformers"]
        made = {name: make(logits, history, params) for name, make in makers.items()}
        ways = {name: choose for name, choose in made.items() if choose is not None}
        results[case] = measure(ways, arguments.repeats)
        cells = (results[case].get(name) for name in makers)
        row = (f"{c['median_us']:.1f} ({c['p90_us']:.1f})" if c else "" for c in cells)
        print(f"{case:28}" + "".join(f"{cell:>18}" for cell in row))
    facts = {"benchmark": "sampling", "vocabulary": arguments.vocabulary, "machine": platform.processor()}
    print(json.dumps({**facts, "results": results}))


if __name__ == "__main__":
    main()
