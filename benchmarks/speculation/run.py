"""Speculation: that it changes no text, and what it saves.

    python benchmarks/speculation/run.py                     # speed, 124M shape, int8
    python benchmarks/speculation/run.py --lossless 1000     # every text with and without, bundled model
    python benchmarks/speculation/run.py --batch 32          # driven requests beside plain ones, one batch
    python benchmarks/speculation/run.py --draft             # a draft model of a tenth, 355M shape, int8

Speed needs no trained model: the 124M model made here has random weights, and a repetition_penalty below 1
makes its text repeat itself, which is the case that prompt lookup is for; how many steps it took is shown.
A draft model saves what it guesses right, so --draft makes pairs that agree more or less: the large model
repeats the small one in each half of its width, in its first layers, and its other layers add noise of a
given size. Cost is that of the shapes; how often the guesses were right is measured and shown.
Rounds with and without take turns; the median and the spread are shown. Prints a table and, last, one line of
JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2.config import KNOWN_SIZES
from gpt2.weights import expected_shapes, save_safetensors


def random_arrays(config: gpt2.GPT2Config, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    arrays = {
        name: generator.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for name, shape in expected_shapes(config).items()
    }
    for name in arrays:
        if ".ln_" in name or name.startswith("ln_f"):
            arrays[name] = np.full_like(arrays[name], 1.0 if name.endswith("weight") else 0.0)
    return arrays


def save(folder: Path, config: gpt2.GPT2Config, arrays: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    config.save(folder)
    save_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    return folder


def model_of_124m(folder: Path, weights: str, threads: int) -> gpt2.LanguageModel:
    config = KNOWN_SIZES["gpt2"]
    save(folder, config, random_arrays(config, 1))
    return gpt2.load(folder, weights=weights, threads=threads)  # type: ignore[arg-type]


def twice(name: str, small: Any) -> Any:
    """A tensor of the small model for one of twice the width that computes the same in each half."""
    if name == "ln_f.weight":
        small = small / 2  # the head sums over both halves
    if small.ndim == 1 or name.startswith("w"):
        halves = np.split(small, 3, axis=-1) if "c_attn" in name else [small]
        return np.concatenate([part for half in halves for part in (half, half)], axis=-1)
    rows = np.concatenate([small, small], axis=0) / 2
    blocks = np.split(rows, 3, axis=1) if "c_attn" in name else [rows]
    return np.concatenate([part for block in blocks for part in (block, block)], axis=1)


def pair(folder: Path, noise: float) -> tuple[Path, Path]:
    """A model of the 355M shape and one of a tenth of its size that guesses for it."""
    large = KNOWN_SIZES["gpt2-medium"]
    small = dataclasses.replace(large, n_embd=512, n_head=8, n_layer=3)
    guessing = random_arrays(small, 1)
    guessing["wte.weight"] *= np.float32(12.0)  # so that some tokens are much more probable than others
    arrays = random_arrays(large, 2)
    for name in arrays:
        if name in guessing:
            arrays[name] = twice(name, guessing[name])
        elif "c_proj" in name:
            arrays[name] *= np.float32(noise)
    return save(folder / "large", large, arrays), save(folder / "small", small, guessing)


def seconds(lm: gpt2.LanguageModel, prompts: Any, **how: Any) -> float:
    begin = time.perf_counter()
    lm.generate(prompts, **how)
    return time.perf_counter() - begin


def in_turns(cases: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(case())
    return times


def show(times: dict[str, list[float]], tokens: int) -> dict[str, float]:
    first = statistics.median(next(iter(times.values())))
    out = {}
    for name, values in times.items():
        median = statistics.median(values)
        out[name] = tokens / median
        spread = (max(values) - min(values)) / median
        print(f"{name:24} {tokens / median:8.1f} tokens/s  spread {spread:4.0%}  {first / median:5.2f}x")
    return out


def speed(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        lm = model_of_124m(Path(folder), args.weights, args.threads)
        prompt = np.resize(np.random.default_rng(2).integers(0, 50257, 24), 96).tolist()
        how: Any = {"temperature": 0, "seed": 0, "max_new_tokens": args.tokens, "ignore_eos": True}
        how["repetition_penalty"] = args.penalty
        lookup = {"prompt_lookup_num_tokens": args.guesses}
        if lm.generate(prompt, **how) != lm.generate(prompt, **how, **lookup):
            raise SystemExit("the texts differ")
        before = lm.stats().steps
        lm.generate(prompt, **how, **lookup)
        steps = lm.stats().steps - before
        print(f"{args.tokens} tokens in {steps} steps with lookup")
        cases = {
            "plain": lambda: seconds(lm, prompt, **how),
            "prompt lookup": lambda: seconds(lm, prompt, **how, **lookup),
        }
        return {"steps": steps, "tokens_per_second": show(in_turns(cases, args.rounds), args.tokens)}


def draft(args: argparse.Namespace) -> dict[str, Any]:
    prompt = np.random.default_rng(2).integers(0, 50257, 32).tolist()
    how: Any = {"seed": 1, "max_new_tokens": args.tokens, "ignore_eos": True}
    out = {}
    for noise in args.noise:
        with tempfile.TemporaryDirectory() as name:
            folders = pair(Path(name), noise)
            lm, small = (gpt2.load(f, weights=args.weights, threads=args.threads) for f in folders)
            plain = lm.generate(prompt, **how)
            before = lm.stats().steps
            if lm.generate(prompt, **how, assistant_model=small) != plain:
                raise SystemExit("the texts differ")
            steps = lm.stats().steps - before
            print(f"noise {noise}: {args.tokens} tokens in {steps} steps of the large model")
            cases = {
                "plain": functools.partial(seconds, lm, prompt, **how),
                "the small model alone": functools.partial(seconds, small, prompt, **how),
                "with the small model": functools.partial(seconds, lm, prompt, **how, assistant_model=small),
            }
            rates = show(in_turns(cases, args.rounds), args.tokens)
            out[str(noise)] = {"steps": steps, "tokens_per_second": rates}
    return out


def lossless(count: int) -> dict[str, Any]:
    """Prompts of the bundled model's own text, some of them repeating; greedy and sampled."""
    lm = gpt2.load("demo")
    draft = gpt2.load("demo", weights="int4")
    dice = random.Random(0)
    differ = 0
    for at in range(count):
        words = [dice.randrange(lm.config.vocab_size) for _ in range(dice.randrange(1, 20))]
        prompt = (words * 6)[: dice.randrange(1, 100)]
        how: Any = {"seed": at, "max_new_tokens": 40, "temperature": dice.choice([0.0, 0.0, 0.7, 1.0])}
        plain = lm.generate(prompt, **how, logprobs=0)
        differ += (
            lm.generate(prompt, **how, logprobs=0, prompt_lookup_num_tokens=dice.randrange(1, 12)) != plain
        )
        differ += lm.generate(prompt, **how, logprobs=0, assistant_model=draft) != plain
    print(f"{count} prompts, each by lookup and by a draft model: {differ} texts differ")
    return {"prompts": count, "differ": differ}


def batch(args: argparse.Namespace) -> dict[str, Any]:
    """A batch that the engine decodes by itself, and the same one driven token by token."""
    with tempfile.TemporaryDirectory() as folder:
        lm = model_of_124m(Path(folder), args.weights, args.threads)
        prompts = [[7, at, 9] for at in range(args.batch)]
        how: Any = {"seed": 1, "max_new_tokens": 64, "ignore_eos": True}
        cases = {
            "plain sampling": lambda: seconds(lm, prompts, **how),
            "all driven": lambda: seconds(lm, prompts, **how, stopping_criteria=[lambda ids: False]),
            "driven, with processors": lambda: seconds(
                lm, prompts, **how, logits_processors=[lambda ids, logits: logits]
            ),
        }
        return {"tokens_per_second": show(in_turns(cases, args.rounds), 64 * args.batch)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--guesses", type=int, default=8)
    parser.add_argument("--penalty", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lossless", type=int, metavar="PROMPTS")
    parser.add_argument("--batch", type=int, metavar="REQUESTS")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    args = parser.parse_args()
    if args.lossless:
        result = {"case": "lossless", **lossless(args.lossless)}
    elif args.draft:
        result = {"case": "draft", "weights": args.weights, **draft(args)}
    elif args.batch:
        result = {"case": "batch", **batch(args)}
    else:
        result = {"case": "speed", "weights": args.weights, **speed(args)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
