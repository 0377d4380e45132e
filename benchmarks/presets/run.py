"""What each preset, and each candidate for one, does to the text of a model: does it repeat itself, is it
varied, does the model find it likely?

    python benchmarks/presets/run.py [--model DIR|ID] [--texts 4] [--tokens 200]

Every set of options continues the same prompts with the same seeds. Per set, over all texts of it:

  rep-n       share of n-grams of tokens that the same text had before, n = 2, 4 (lower: repeats less)
  distinct-n  different n-grams / all n-grams of all texts together, n = 1, 2 (higher: more varied)
  perplexity  of the texts under the model itself, temperature 1, no rules (near that of the human text below:
              as surprising as what people write; Holtzman et al. 2020, arXiv:1904.09751)
  ended       share of texts that came to an end of their own

The row `human` is the continuation that the prompt has in the held-out text of --human, if one is given.
Prints a Markdown table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpt2
from gpt2.decoding import PRESETS

PROMPTS = (
    "Once upon a time",
    "One day, a little girl named Lily",
    "Tom and his dog went to",
    "The old house at the end of the road",
    "Ben was very sad because",
    "In the garden there was",
    "Mom said,",
    "The cat looked at the bird and",
)

CANDIDATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "greedy, penalty 1.1": {"temperature": 0.0, "repetition_penalty": 1.1},
    "greedy, dry": {"temperature": 0.0, "dry_multiplier": 0.8},
    "t 0.2, top_p 0.95": {"temperature": 0.2, "top_p": 0.95},
    "t 0.2, top_p 0.95, dry": {"temperature": 0.2, "top_p": 0.95, "dry_multiplier": 0.8},
    "t 0.7, top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "t 0.7, top_p 0.9, penalty 1.1": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
    "t 0.8, top_p 0.9, penalty 1.05": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.05},
    "t 0.8, top_p 0.9, dry": {"temperature": 0.8, "top_p": 0.9, "dry_multiplier": 0.8},
    "t 0.8, min_p 0.05, dry": {"temperature": 0.8, "min_p": 0.05, "dry_multiplier": 0.8},
    "t 1, min_p 0.05": {"min_p": 0.05},
    "t 1, min_p 0.1, dry": {"min_p": 0.1, "dry_multiplier": 0.8},
    "t 1, typical 0.9": {"typical_p": 0.9},
    "t 1, top_n_sigma 1": {"top_n_sigma": 1.0},
    "mirostat 2, tau 3": {"mirostat": 2, "mirostat_tau": 3.0},
}


def ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def repeated(texts: Sequence[Sequence[int]], n: int) -> float:
    """Over the texts, the share of n-grams that their own text had before."""
    found = [ngrams(text, n) for text in texts]
    return 1.0 - sum(len(set(one)) for one in found) / max(1, sum(len(one) for one in found))


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / max(1, len(found))


def perplexity(lm: Any, pairs: Sequence[tuple[list[int], Sequence[int]]]) -> float:
    """Of the texts after their prompts."""
    total, count = 0.0, 0
    for prompt, text in pairs:
        if text:
            total += sum(lm.score([*prompt, *text]).logprobs[-len(text) :])
            count += len(text)
    return math.exp(-total / max(1, count))


def measure(lm: Any, texts: Sequence[tuple[list[int], Sequence[int]]], ended: float) -> dict[str, float]:
    tokens = [text for _, text in texts]
    return {
        "rep2": repeated(tokens, 2),
        "rep4": repeated(tokens, 4),
        "distinct1": distinct(tokens, 1),
        "distinct2": distinct(tokens, 2),
        "perplexity": perplexity(lm, texts),
        "ended": ended,
    }


def generated(lm: Any, options: dict[str, Any], texts: int, tokens: int) -> dict[str, float]:
    fixed = {k: v for k, v in options.items() if k not in ("max_new_tokens", "stop")}
    results = lm.generate(list(PROMPTS), max_new_tokens=tokens, n=texts, seed=1, **fixed)
    prompts = [lm.tokenizer.encode(prompt) for prompt in PROMPTS for _ in range(texts)]
    pairs = [
        (prompt, result.tokens[:-1] if result.finish_reason == "eos" else result.tokens)
        for prompt, result in zip(prompts, results, strict=True)
    ]
    return measure(lm, pairs, sum(r.finish_reason == "eos" for r in results) / len(results))


def human(lm: Any, path: Path, tokens: int) -> dict[str, float]:
    """The beginnings of the documents of a text file that has <|endoftext|> or empty lines between them."""
    text = path.read_text(encoding="utf-8", errors="replace")
    documents = [d.strip() for d in text.split("<|endoftext|>" if "<|endoftext|>" in text else "\n\n")]
    pairs = []
    for document in [d for d in documents if len(d) > 200][:32]:
        ids = lm.tokenizer.encode(document)[: tokens + 6]
        pairs.append((ids[:6], ids[6:]))
    return measure(lm, pairs, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--texts", type=int, default=4, help="per prompt and set of options")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--human", type=Path, help="a text file that the model was not trained on")
    arguments = parser.parse_args()
    lm = gpt2.load(arguments.model)
    sets = {**{f"preset {name}": dict(fields) for name, fields in PRESETS.items()}, **CANDIDATES}
    results: dict[str, dict[str, float]] = {}
    print("| options | rep-2 | rep-4 | distinct-1 | distinct-2 | perplexity | ended |")
    print("|---|---|---|---|---|---|---|")
    if arguments.human is not None:
        show(results, "human", human(lm, arguments.human, arguments.tokens))
    for name, options in sets.items():
        show(results, name, generated(lm, options, arguments.texts, arguments.tokens))
    print(json.dumps({"benchmark": "presets", "prompts": len(PROMPTS), "results": results}))


def show(results: dict[str, dict[str, float]], name: str, row: dict[str, float]) -> None:
    results[name] = row
    cells = [f"{row[key]:.3f}" for key in ("rep2", "rep4", "distinct1", "distinct2")]
    print(f"| {name} | {' | '.join(cells)} | {row['perplexity']:.1f} | {row['ended']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
