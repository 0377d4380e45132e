"""Whether what a grammar asked for is what comes: over a thousand texts of the bundled model, each judged.

    python benchmarks/grammar/obey.py [--texts 60] [--model DIR]

The cases and their judges (the stdlib's json with jsonschema, re, lark) are those of the tests
(tests/decoding/structures.py). Half of the texts are drawn at temperature 1, half at 1.5, where a small model
rambles; a text that has not ended within the limit counts as wrong. Prints a table and, last, one line of
JSON; the exit code is 1 unless every text obeys.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gpt2

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from decoding.structures import TOKENS, judges  # the folder is not a package's

PROMPTS = ("She opened the letter and read: ", "Once upon a time", "The answer is ")


def write(lm: gpt2.LanguageModel, options: Mapping[str, Any], texts: int) -> list[gpt2.Completion]:
    """`texts` texts, half of them hot, from the prompts in turn."""
    out: list[gpt2.Completion] = []
    for half, temperature in enumerate((1.0, 1.5)):
        count = -(-texts // (2 * len(PROMPTS)))
        done = lm.generate(
            PROMPTS, n=count, seed=half, temperature=temperature, max_new_tokens=TOKENS // 4, **options
        )
        out += done if isinstance(done, list) else [done]
    return out


def wrong(texts: list[gpt2.Completion], judge: Callable[[str], None]) -> list[str]:
    """What is wrong with each text that does not obey."""
    found = []
    for text in texts:
        if text.finish_reason not in ("eos", "grammar"):
            found.append(f"ended by {text.finish_reason}: {text.text[:60]!r}")
            continue
        try:
            judge(text.text)
        except Exception as error:  # whatever a judge raises
            found.append(f"{text.text[:60]!r}: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--texts", type=int, default=60, help="of each case, at least")
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    args = parser.parse_args()
    lm = gpt2.load(args.model)
    total = bad = 0
    print(f"{'option':12} {'case':18} {'texts':>6} {'obey':>6} {'tokens':>7} {'seconds':>8}")
    for (option, name), (options, judge) in judges().items():
        began = time.perf_counter()
        texts = write(lm, options, args.texts)
        seconds = time.perf_counter() - began
        faults = wrong(texts, judge)
        total, bad = total + len(texts), bad + len(faults)
        tokens = sum(len(text.tokens) for text in texts) / len(texts)
        good = len(texts) - len(faults)
        print(
            f"{option:12} {name[:18]!r:18} {len(texts):6} {good:6} {tokens:7.1f} {seconds:8.1f}", flush=True
        )
        for fault in faults[:3]:
            print(f"    {fault}")
    cases = {option: sum(o == option for o, _ in judges()) for option, _ in judges()}
    print(json.dumps({"texts": total, "obey": total - bad, "cases": cases, "model": lm.name}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
