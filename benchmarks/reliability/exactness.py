"""R9: how far the engine's logits are from transformers', and whether greedy decoding ever parts from it.

    python benchmarks/reliability/exactness.py
    python benchmarks/reliability/exactness.py --prompts 40 --new 64 --isa avx2
    python benchmarks/reliability/exactness.py --model path/to/gpt2 --prompts 0

Two tables. The first: for every width of weights and of the cache and every instruction set of this machine
the largest |difference| of a logit from transformers in float64 and in float32, over texts of odd lengths
from 1 to n_positions; at how many positions the best token is another one; and the perplexity of those
texts. The reference has the weights as the file has them, so what narrower widths round away is in their
rows. transformers' own float32 is the yardstick in the first row. float32 weights beside a float32 cache
must stay within the bound that the tests derive (tests/checkpoints.py).

The second: greedy continuations of --prompts prompts by --new tokens beside those of transformers'
generate() in float32, without padding (prompts of one length are its batch). Where they part, the float64
logits of both tokens say why: a gap within twice the derived bound is a tie that rounding may decide, a
larger one is a fault. Each is listed. The engine then goes on behind the reference's token, so that every
one of the prompts x tokens choices is compared, and the smallest gaps of all choices are shown beside it.
Prompts and texts are what the model itself writes at temperature 1. The last line is JSON. Exit 1 for a
fault, in either table.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gpt2
from gpt2 import _native
from gpt2.weights.hub import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from checkpoints import logit_error_bound

WEIGHTS = ("float32", "bfloat16", "int8", "int4")
CACHES = ("float32", "bfloat16", "int8")
LENGTHS = (
    1,
    2,
    3,
    5,
    7,
    9,
    15,
    17,
    31,
    33,
    47,
    63,
    65,
    95,
    127,
    129,
    191,
    193,
    255,
    257,
    383,
    511,
    513,
    767,
    1023,
)
"""Around the multiples of the vectors and of the cache's blocks; the model's whole window is added."""

Array = npt.NDArray[Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Reference:
    """transformers' model of the same files, in float32 and in float64."""

    def __init__(self, model: str | None, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        path = Path(resolve(model))
        folder = path if path.is_dir() else path.parent
        self.single = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.double = copy.deepcopy(self.single).double()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def logits(self, ids: list[int], double: bool = False) -> Array:
        """[T, V]"""
        import torch

        with torch.inference_mode():
            logits = (self.double if double else self.single)(torch.tensor([ids])).logits[0].numpy()
        return np.asarray(logits)

    def greedy(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """What generate() chooses; an end-of-text token ends nothing. All prompts have one length."""
        import torch
        from transformers import GenerationConfig

        self.single.generation_config = how = GenerationConfig(
            do_sample=False, max_new_tokens=new, eos_token_id=None, pad_token_id=0, bos_token_id=None
        )
        ids = torch.tensor(prompts)
        out = self.single.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
        found: list[list[int]] = out[:, ids.shape[1] :].tolist()
        if any(len(tokens) != new for tokens in found):
            raise SystemExit("transformers ended a text early")
        return found


def written(lm: gpt2.LanguageModel, count: int, length: int) -> list[list[int]]:
    """Texts that the model writes, begun by its end-of-text token (or token 0)."""
    start = lm.tokenizer.eos_id if lm._tokenizer is not None and lm.tokenizer.eos_id is not None else 0
    how: Any = {"temperature": 1.0, "max_new_tokens": length - 1, "ignore_eos": True, "seed": 9}
    texts: Any = lm.generate([[start]], n=count, **how) if length > 1 else []
    return [[start, *text.tokens] for text in texts] or [[start]] * count


# --- how far the logits are ---


@dataclass(frozen=True)
class Row:
    weights: str
    cache: str
    isa: str
    from_float64: float
    """The largest |difference| of a logit from the reference in float64."""
    from_float32: float
    other_best: int
    """Positions at which another token is the best than in float64."""
    perplexity: float
    within_bound: bool | None
    """None where no bound is derived: the width rounds more than float32 arithmetic does."""


def perplexity(logits: list[Array], texts: list[list[int]]) -> float:
    total, count = 0.0, 0
    for x, ids in zip(logits, texts, strict=True):
        wide = x[:-1].astype(np.float64)
        top = wide.max(-1)
        norm = top + np.log(np.exp(wide - top[:, None]).sum(-1))
        total += float((norm - wide[np.arange(len(ids) - 1), ids[1:]]).sum())
        count += len(ids) - 1
    return math.exp(total / max(1, count))


class Sweep:
    """Texts of all lengths, with the reference's logits of each."""

    def __init__(self, reference: Reference, lm: gpt2.LanguageModel, each: int) -> None:
        window = lm.config.n_positions
        lengths = [length for length in LENGTHS if length < window] + [window]
        whole = written(lm, each * len(lengths), window)
        self.texts = [text[: lengths[i % len(lengths)]] for i, text in enumerate(whole)]
        self.exact = [reference.logits(ids, double=True) for ids in self.texts]
        self.float32 = [reference.logits(ids) for ids in self.texts]
        self.bounds = [
            logit_error_bound(lm.config, len(ids), float(np.abs(x).max()))
            for ids, x in zip(self.texts, self.exact, strict=True)
        ]
        self.positions = sum(map(len, self.texts))
        self.largest = max(float(np.abs(x).max()) for x in self.exact)
        self.perplexity = perplexity(self.exact, self.texts)

    def row(self, weights: str, cache: str, isa: str, got: list[Array], bounded: bool) -> Row:
        off = [float(np.abs(g - e).max()) for g, e in zip(got, self.exact, strict=True)]
        from_float32 = max(float(np.abs(g - e).max()) for g, e in zip(got, self.float32, strict=True))
        pairs = zip(got, self.exact, strict=True)
        other = sum(int((g.argmax(-1) != e.argmax(-1)).sum()) for g, e in pairs)
        within = all(o <= b for o, b in zip(off, self.bounds, strict=True)) if bounded else None
        return Row(weights, cache, isa, max(off), from_float32, other, perplexity(got, self.texts), within)

    def rows(self, model: str | None, isas: list[str]) -> Iterator[Row]:
        yield self.row("transformers float32", "", "", self.float32, True)
        for isa in isas:
            for weights in WEIGHTS:
                for cache in CACHES:
                    lm = gpt2.load(model, weights=weights, cache=cache, isa=isa)  # type: ignore[arg-type]
                    got = [lm.logits(ids) for ids in self.texts]
                    yield self.row(weights, cache, isa, got, (weights, cache) == ("float32", "float32"))


def show(sweep: Sweep, row: Row) -> None:
    delta = row.perplexity - sweep.perplexity
    note = {None: "", True: "within the bound", False: "BEYOND THE BOUND"}[row.within_bound]
    print(
        f"| {row.weights} | {row.cache} | {row.isa} | {row.from_float64:.2e} | {row.from_float32:.2e} | "
        f"{row.other_best:,} | {delta:+.5f} | {note} |",
        flush=True,
    )


# --- whether greedy decoding parts ---


@dataclass(frozen=True)
class Parting:
    weights: str
    prompt: int
    length: int
    """Tokens of the prompt."""
    at: int
    """Which new token."""
    theirs: int
    ours: int
    gap: float
    """By how much the logit of theirs is larger in float64."""
    allowed: float
    """Twice the bound of float32 arithmetic there: what rounding may decide."""

    @property
    def is_fault(self) -> bool:
        return abs(self.gap) > self.allowed


def judged(
    reference: Reference, config: gpt2.GPT2Config, ids: list[int], theirs: int, ours: int
) -> tuple[float, float]:
    """(gap, what rounding may decide) of two choices after these ids."""
    last = reference.logits(ids, double=True)[-1]
    bound = logit_error_bound(config, len(ids), float(np.abs(last).max()))
    return float(last[theirs] - last[ours]), 2 * bound


class Greedy:
    """Prompts of every length, what transformers makes of them, and what engines do."""

    def __init__(self, reference: Reference, lm: gpt2.LanguageModel, prompts: int, new: int) -> None:
        self.reference, self.config, self.new = reference, lm.config, new
        longest = lm.config.n_positions - new
        lengths = [length for length in LENGTHS if length <= longest][-20:]
        bits = random.Random(9)
        texts = written(lm, 64, lm.config.n_positions)
        self.prompts: list[list[int]] = []
        for i in range(prompts):
            length = lengths[i * len(lengths) // prompts]
            text = bits.choice(texts)
            start = bits.randint(0, len(text) - length)
            self.prompts.append(text[start : start + length])
        self.theirs: list[list[int]] = []
        for group in self.groups():
            self.theirs += reference.greedy([self.prompts[i] for i in group], new)
            say(f"transformers: {len(self.theirs)} of {prompts} prompts")

    def groups(self) -> Iterator[range]:
        """Runs of prompts of one length, at most 50."""
        begin = 0
        for i in range(1, len(self.prompts) + 1):
            same = i < len(self.prompts) and len(self.prompts[i]) == len(self.prompts[begin])
            if not same or i - begin == 50:
                yield range(begin, i)
                begin = i

    def partings(self, weights: str, lm: gpt2.LanguageModel) -> Iterator[Parting]:
        """Every choice that differs, each after the text of the reference."""
        how: Any = {"temperature": 0, "ignore_eos": True}
        for group in self.groups():
            answers: Any = lm.generate([self.prompts[i] for i in group], max_new_tokens=self.new, **how)
            for i, answer in zip(group, answers, strict=True):
                ours, at = list(answer.tokens), 0
                while (at := first_difference(self.theirs[i], ours, at)) < self.new:
                    ids = self.prompts[i] + self.theirs[i][:at]
                    gap, allowed = judged(self.reference, self.config, ids, self.theirs[i][at], ours[at])
                    yield Parting(
                        weights, i, len(self.prompts[i]), at, self.theirs[i][at], ours[at], gap, allowed
                    )
                    at += 1  # and on behind the reference's token
                    if at < self.new:
                        rest: Any = lm.generate(
                            [*ids, self.theirs[i][at - 1]], max_new_tokens=self.new - at, **how
                        )
                        ours = self.theirs[i][:at] + list(rest.tokens)
            say(f"gpt2, {weights}: {group.stop} of {len(self.prompts)} prompts")

    def gaps(self) -> Array:
        """Between the two best tokens at each choice, in float32, [prompts x new]."""
        found = []
        for prompt, theirs in zip(self.prompts, self.theirs, strict=True):
            logits = self.reference.logits(prompt + theirs[:-1])[len(prompt) - 1 :]
            best = np.partition(logits, -2, axis=-1)[:, -2:]
            found.append(np.abs(best[:, 1] - best[:, 0]))
        return np.concatenate(found)


def first_difference(a: list[int], b: list[int], start: int) -> int:
    return next((i for i in range(start, len(a)) if a[i] != b[i]), len(a))


def greedy_table(reference: Reference, lm: gpt2.LanguageModel, args: argparse.Namespace) -> dict[str, Any]:
    """Prints the second table; returns its figures."""
    greedy = Greedy(reference, lm, args.prompts, args.new)
    print("\n| weights | prompt | its tokens | new token | theirs | ours | gap in float64 | allowed | |")
    print("|---|---|---|---|---|---|---|---|---|")
    partings: list[Parting] = []
    for weights in args.greedy_weights:
        engine = lm if weights == "float32" else gpt2.load(args.model, weights=weights)
        for p in greedy.partings(weights, engine):
            verdict = "FAULT" if p.is_fault else "a tie for float32"
            print(
                f"| {p.weights} | {p.prompt} | {p.length} | {p.at} | {p.theirs} | {p.ours} | {p.gap:.2e} "
                f"| {p.allowed:.2e} | {verdict} |",
                flush=True,
            )
            partings.append(p)
    gaps = np.sort(greedy.gaps())
    unexplained = sum(p.is_fault for p in partings)
    print(
        f"\n{len(partings)} of {gaps.size * len(args.greedy_weights):,} choices differ, {unexplained} of "
        "them unexplained; the smallest gaps between the two best tokens are "
        + ", ".join(f"{gap:.1e}" for gap in gaps[:5])
    )
    return {
        "choices": gaps.size,
        "unexplained": unexplained,
        "smallest_gaps": gaps[:5].tolist(),
        "gaps_below": {f"{limit:g}": int((gaps < limit).sum()) for limit in (1e-5, 1e-4, 1e-3, 1e-2)},
        "partings": [asdict(p) for p in partings],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model directory or hub id; the bundled model when absent")
    parser.add_argument("--texts", type=int, default=1, help="of each length, for the first table")
    parser.add_argument("--prompts", type=int, default=1000, help="for the second table; 0 leaves it out")
    parser.add_argument("--new", type=int, default=256, help="tokens after each prompt")
    parser.add_argument("--isa", nargs="+", default=_native.available_isas(), help="for the first table")
    parser.add_argument("--greedy-weights", nargs="+", default=["float32"], choices=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2, help="of the reference")
    args = parser.parse_args()
    began = time.monotonic()
    reference = Reference(args.model, args.threads)
    lm = gpt2.load(args.model, weights="float32", cache="float32")
    sweep = Sweep(reference, lm, args.texts)
    print(
        f"{reference.version}; {len(sweep.texts)} texts, {sweep.positions:,} positions, the largest |logit| "
        f"{sweep.largest:.1f}, perplexity in float64 {sweep.perplexity:.4f}\n\n"
        "| weights | cache | instruction set | from float64 | from float32 | another best token | "
        "perplexity | |\n|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for row in sweep.rows(args.model, args.isa):
        show(sweep, row)
        rows.append(row)
    figures = greedy_table(reference, lm, args) if args.prompts else {}
    faults = sum(row.within_bound is False for row in rows) + figures.get("unexplained", 0)
    seconds = round(time.monotonic() - began)
    logits = [asdict(row) for row in rows]
    print(
        json.dumps(
            {
                "reference": reference.version,
                "logits": logits,
                **figures,
                "faults": faults,
                "seconds": seconds,
            }
        )
    )
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
