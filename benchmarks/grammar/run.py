"""What a grammar costs of a step, and how long a suggestion takes, at GPT-2's own vocabulary.

    python benchmarks/grammar/run.py --vocabulary DIR [--checkpoint DIR] [--weights int8]

--vocabulary: a folder with GPT-2's encoder.json + vocab.bpe (or vocab.json + merges.txt); the model has the
124M shape and random weights, which cost what trained ones cost, or is --checkpoint.

The mask is what a grammar adds to a step before it: llguidance's, what is made of it here, and one token
more. It is timed along texts that a random choice among the allowed tokens writes, with the processor's
caches emptied before each, as a step of the model leaves them, and set beside the median step of the same
model without a grammar. Then whole steps with and without a grammar take turns.

Suggestions are timed as an editor asks for them, letter by letter: the prefix is in
the cache but for its last tokens, which change with every request. Medians and 90th percentiles. Prints
tables and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.grammar import Grammars, structure_of
from gpt2.decoding.strategies.masked import allowed
from gpt2.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

from harness import checkpoint

from decoding.structures import judges  # the folder is not a package's

WORDS = "the old man went down to river and saw that his boat was gone so he sat by water until night came"
CONTEXT = 256
EVICT = np.ones(40_000_000, dtype=np.float32)
"""Reading it fills the caches with something else."""
WHOLE = {
    "JSON strings": {
        "json_schema": {"type": "array", "items": {"type": "string", "maxLength": 300}, "minItems": 50}
    },
    "letters": {"regex": "[a-zA-Z ,.]{400}"},
}


def model(args: argparse.Namespace, folder: Path) -> gpt2.LanguageModel:
    if args.checkpoint is None:
        checkpoint.make(folder, "124M")
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (folder / name).unlink()
        for name in ("encoder.json", "vocab.bpe", "vocab.json", "merges.txt"):
            if (args.vocabulary / name).is_file():
                shutil.copy(args.vocabulary / name, folder)
    return gpt2.load(args.checkpoint or folder, weights=args.weights, threads=args.threads)


def milliseconds(seconds: list[float]) -> tuple[float, float]:
    """Median and 90th percentile."""
    return statistics.median(seconds) * 1e3, sorted(seconds)[len(seconds) * 9 // 10] * 1e3


def step_times(lm: gpt2.LanguageModel, count: int, **options: Any) -> list[float]:
    """Seconds of each token of one stream behind a prompt of CONTEXT tokens."""
    ids = (lm.tokenizer.encode(WORDS) * 50)[:CONTEXT]
    times, last = [], 0.0
    for chunk in lm.stream(ids, max_new_tokens=count, seed=1, ignore_eos=True, **options):
        now = time.perf_counter()
        times.append(now - last)
        last = now
        del chunk
    return times[1:]


def mask_times(grammars: Grammars, options: Any, texts: int) -> list[float]:
    """Seconds that each token costs along texts of random choices."""
    structure = structure_of(SamplingParams(**options))
    if structure is None:
        raise SystemExit("a case without a grammar")
    rng = np.random.default_rng(1)
    times: list[float] = []
    for _ in range(texts):
        follower = grammars.follow(structure, {50256})
        while True:
            _ = EVICT.sum()
            began = time.perf_counter()
            mask = follower.mask()
            spent = time.perf_counter() - began
            tokens = allowed(mask)
            token = int(rng.choice(tokens)) if tokens.size else 50256
            if token == 50256:
                break
            began = time.perf_counter()
            follower.push(token)
            times.append(spent + time.perf_counter() - began)
    return times


def suggestion_times(lm: gpt2.LanguageModel, n: int, count: int) -> list[float]:
    """Seconds of suggest() as somebody types: each prefix is the one before with a letter more."""
    text = " ".join([WORDS] * 40)
    begin = len(WORDS) * 10
    times = []
    for at in range(begin, begin + count):
        began = time.perf_counter()
        lm.suggest(text[:at], n)
        times.append(time.perf_counter() - began)
    return times[3:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--texts", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lm = model(args, Path(folder))
        tokenizer = Tokenizer.load(args.vocabulary)
        out: dict[str, Any] = {"machine": platform.machine(), "threads": lm.threads, "weights": lm.weights}
        step, slow = milliseconds(step_times(lm, 64))
        print(f"one step without a grammar: median {step:.2f} ms, 90 % {slow:.2f} ms")
        out["step_ms"] = step
        began = time.perf_counter()
        grammars = Grammars(tokenizer, lm.config.vocab_size)
        grammars.follow(structure_of(SamplingParams(regex="a")) or sys.exit(1), ())
        out["tables_ms"] = (time.perf_counter() - began) * 1e3
        print(f"the first grammar of a model: {out['tables_ms']:.0f} ms")
        every: list[float] = []
        for (option, name), (options, _) in judges().items():
            times = mask_times(grammars, options, args.texts)
            every += times
            median, slow = milliseconds(times)
            print(f"{option:12} {name!r:20} {len(times):6} tokens {median:8.3f} ms, 90 % {slow:8.3f} ms")
        mean = statistics.mean(every) * 1e3
        median, slow = milliseconds(every)
        out |= {"mask_ms": {"mean": mean, "median": median, "p90": slow}, "share": mean / step}
        print(f"a mask: mean {mean:.3f} ms, median {median:.3f} ms: {mean / step:.1%} of a step (mean)")
        for name, options in WHOLE.items():
            step_times(lm, 4, **options)
            pairs = [(step_times(lm, 32), step_times(lm, 32, **options)) for _ in range(4)]
            plain = milliseconds([t for pair in pairs for t in pair[0]])[0]
            under = milliseconds([t for pair in pairs for t in pair[1]])[0]
            out[f"step with {name}"] = under / plain - 1
            print(f"a step with {name}: {under:.2f} ms, {plain:.2f} ms without: {under / plain - 1:+.1%}")
        for n in (1, 3, 5):
            median, slow = milliseconds(suggestion_times(lm, n, 40))
            out[f"suggest_{n}_ms"] = median
            print(f"suggest(prefix, {n}), 5 tokens: median {median:.1f} ms, 90 % {slow:.1f} ms")
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
