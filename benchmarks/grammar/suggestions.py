"""Which n suggestions to offer: the n best first tokens, each followed greedily, or the n best beams.

    python benchmarks/grammar/suggestions.py [--model DIR] [--cuts 150]

Texts are drawn from the model itself and cut anywhere, so that what follows is known and is what the model
expects. For n = 1, 3, 5 and five tokens: how many characters of what follows the best of the n suggestions
has (what a writer need not type), how many different words the n begin with, and the log-probability of the
first. Beam search is written out here, over lm.logits, with n beams (two for n = 1). Prints a table and,
last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics

import numpy as np

import gpt2
from gpt2.decoding.strategies.healing import Healing, TokenIndex, heal
from gpt2.decoding.strategies.masked import allowed

TOKENS = 5
Found = list[tuple[str, float]]


def beams(lm: gpt2.LanguageModel, index: TokenIndex, prefix: str, n: int) -> Found:
    """(text, log-probability) of the n best of a beam search with max(n, 2) beams."""
    kept, rest = heal(index, lm.tokenizer.encode(prefix), lm.tokenizer.eos_id)
    live: list[tuple[float, list[int], Healing]] = [(0.0, [], Healing(index, rest))]
    for _ in range(TOKENS):
        children = []
        for score, tokens, healing in live:
            row = lm.logits([*kept, *tokens], first=len(kept) + len(tokens) - 1)[0].astype(np.float64)
            row -= np.log(np.exp(row - row.max()).sum()) + row.max()
            mask = healing.mask()
            ids = allowed(index.spelled if mask is None else mask)
            best = ids[np.argsort(-row[ids], kind="stable")[: max(n, 2)]]
            children += [(score + float(row[token]), [*tokens, int(token)], healing) for token in best]
        children.sort(key=lambda child: -child[0])
        live = []
        for score, tokens, healing in children[: max(n, 2)]:
            forked = healing.fork()
            forked.push(tokens[-1])
            live.append((score, tokens, forked))
    texts = [(lm.tokenizer.decode_bytes(tokens)[len(rest) :], score) for score, tokens, _ in live[:n]]
    return [(text.decode("utf-8", "ignore"), score) for text, score in texts]


def cuts(lm: gpt2.LanguageModel, count: int) -> list[tuple[str, str]]:
    """(prefix, what follows) of texts drawn from the model."""
    rng = random.Random(1)
    done = lm.generate("", n=max(1, count // 10), seed=1, max_new_tokens=100, temperature=0.8)
    texts = [c.text for c in (done if isinstance(done, list) else [done]) if len(c.text) > 150]
    out = []
    for _ in range(count):
        text = rng.choice(texts)
        at = rng.randrange(40, len(text) - 40)
        out.append((text[:at], text[at:]))
    return out


def measure(found: list[Found], rests: list[str]) -> tuple[float, float, float]:
    saved, words, best = [], [], []
    for options, rest in zip(found, rests, strict=True):
        saved.append(max((shared(text, rest) for text, _ in options), default=0))
        words.append(len({first_word(text) for text, _ in options}))
        best.append(max((score for _, score in options), default=0.0))
    return statistics.mean(saved), statistics.mean(words), statistics.mean(best)


def shared(text: str, rest: str) -> int:
    """Characters that both begin with."""
    pairs = enumerate(zip(text, rest, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(text), len(rest)))


def first_word(text: str) -> str:
    """The rest of a word that was begun, or the next word with its space."""
    return text[: 1 + text[1:].find(" ")] if " " in text[1:] else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a model directory; the bundled model when absent")
    parser.add_argument("--cuts", type=int, default=150)
    args = parser.parse_args()
    lm = gpt2.load(args.model)
    index = TokenIndex(lm.tokenizer, lm.config.vocab_size)
    pairs = cuts(lm, args.cuts)
    rests = [rest for _, rest in pairs]
    out = {}
    print(f"{'n':>2} {'how':12} {'characters saved':>17} {'different words':>16} {'best logprob':>13}")
    for n in (1, 3, 5):
        ways = {
            "first tokens": [[(s.text, s.logprob) for s in lm.suggest(p, n)] for p, _ in pairs],
            "beams": [beams(lm, index, p, n) for p, _ in pairs],
        }
        for how, found in ways.items():
            saved, words, best = out[f"{how} {n}"] = measure(found, rests)
            print(f"{n:2} {how:12} {saved:17.2f} {words:16.2f} {best:13.2f}", flush=True)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
