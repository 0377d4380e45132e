"""What narrow weights and caches cost in quality: bits per byte of a text, against float32 and the limits.

    python benchmarks/quality/run.py --text held-out.txt
    python benchmarks/quality/run.py -m path/to/gpt2 --text wiki.test.raw --bytes 300000 --json quality.json
    python benchmarks/quality/run.py --text held-out.txt --outliers 4 --only int8

The text is one the model was not trained on. Every token is scored once, in windows that move by half of
n_positions. int8 and int4 are made as `gpt2 quantize` makes them, with the groups and zero points that a row
names. --outliers makes channels of the activations 20 to 50 times larger, as some of GPT-2's are, and the
rows of the weights that much smaller: the same function, and harder to round. The limits are those that the
project holds itself to: bfloat16 within 0.1 % of float32, int8 within 0.2 %; int4 is reported. The exit code
is 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2.cards import agreement, sample_ids
from gpt2.cards.quantised import COPIED, write_quantised
from gpt2.weights import Scheme, save_safetensors
from gpt2.weights.hub import resolve

LIMITS = {"bfloat16": 0.1, "int8": 0.2}
"""Percent over float32, whatever the cache."""


@dataclass(frozen=True)
class Case:
    name: str
    weights: str = "auto"
    scheme: Scheme | None = None
    cache: str = "auto"

    @property
    def limit(self) -> float | None:
        key = self.scheme.method if self.scheme else self.weights
        if self.scheme and (not self.scheme.equalised):
            return None
        return LIMITS.get(key, LIMITS.get(self.cache) if key == "float32" else None)


def cases(caches: bool) -> list[Case]:
    int4 = [
        Case(f"int4, groups of {g}{'' if symmetric else ', zero points'}", scheme=Scheme(
            method="int4", group=g, symmetric=symmetric))
        for g in (32, 64, 128) for symmetric in (True, False)
    ]  # fmt: skip
    eight = Scheme(method="int8")
    found = [
        Case("float32", "float32"),
        Case("bfloat16", "bfloat16"),
        Case("int8", scheme=eight),
        Case("int8, zero points", scheme=Scheme(method="int8", symmetric=False)),
        Case("int8, not equalised", scheme=Scheme(method="int8", equalised=False)),
        *int4,
        Case("int4, groups of 32, not equalised", scheme=Scheme(method="int4", equalised=False)),
    ]
    if caches:
        found += [
            Case("float32, bfloat16 cache", "float32", cache="bfloat16"),
            Case("float32, int8 cache", "float32", cache="int8"),
            Case("int8, bfloat16 cache", scheme=eight, cache="bfloat16"),
            Case("int8, int8 cache", scheme=eight, cache="int8"),
            Case("int4, groups of 32, int8 cache", scheme=Scheme(method="int4"), cache="int8"),
        ]
    return found


def load(model: str | None, case: Case, folder: Path, threads: int | None) -> Any:
    cache = {} if case.cache == "auto" else {"cache": case.cache}
    if case.scheme is None:
        return gpt2.load(model, weights=case.weights, threads=threads, **cache)  # type: ignore[arg-type]
    target = folder / "model"
    if target.exists():
        for file in target.iterdir():
            file.unlink()
    target.mkdir(exist_ok=True)
    write_quantised(model, target, case.scheme)
    return gpt2.load(target, threads=threads, **cache)


def with_outliers(model: str | None, folder: Path, count: int) -> Path:
    """A copy of the model in which `count` channels after each LayerNorm, and of the values, are large."""
    source = Path(resolve(model))
    config = gpt2.GPT2Config.from_json(source)
    arrays = {name: t.to_float32() for name, t in gpt2.open_weights(source, config).items()}
    rng, c = np.random.default_rng(0), config.n_embd

    def move(makers: list[np.ndarray], matrix: np.ndarray) -> None:
        at, by = rng.choice(c, count, replace=False), rng.uniform(20, 50, count).astype(np.float32)
        for maker in makers:
            maker[..., at] *= by
        matrix[at] /= by[:, None]

    for i in range(config.n_layer):
        block = {name.removeprefix(f"h.{i}."): a for name, a in arrays.items() if name.startswith(f"h.{i}.")}
        for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            move([block[f"{norm}.weight"], block[f"{norm}.bias"]], block[f"{matrix}.weight"])
        values = [block["attn.c_attn.weight"][:, 2 * c :], block["attn.c_attn.bias"][2 * c :]]
        move(values, block["attn.c_proj.weight"])
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config.save(folder)
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def has_caches() -> bool:
    import inspect

    return "cache" in inspect.signature(gpt2.load).parameters


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", metavar="DIR|ID", help="the bundled model when absent")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, UTF-8")
    parser.add_argument("--bytes", type=int, metavar="N", help="only the first N bytes of it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--outliers", type=int, default=0, metavar="N", help="channels per activation")
    parser.add_argument("--only", metavar="TEXT", help="only the rows whose name has this in it, and float32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = parser.parse_args()
    raw = args.text.read_bytes()
    text = raw[: args.bytes].decode("utf-8", "ignore")
    rows: list[dict[str, Any]] = []
    print(f"{args.model or 'demo'}, {len(text.encode()):,} bytes of {args.text.name}\n")
    print("| weights, cache | bits per byte | over float32 | limit | bits from float32 | same top token |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as spiked:
        source = args.model
        if args.outliers:
            source = str(with_outliers(source, Path(spiked), args.outliers))
        reference = gpt2.load(source, weights="float32", threads=args.threads)
        samples = sample_ids(reference)
        for case in cases(has_caches()):
            if args.only and args.only not in case.name and case.name != "float32":
                continue
            model = load(source, case, Path(scratch), args.threads)
            begin = time.perf_counter()
            bits = model.score(text, stride=max(1, model.config.n_positions // 2)).bits_per_byte
            near = agreement(reference, model, samples)
            base = rows[0]["bits_per_byte"] if rows else bits
            row = {"case": case.name, "bits_per_byte": bits, "percent": 100 * (bits / base - 1)}
            rows.append(row | {"limit": case.limit, "seconds": time.perf_counter() - begin, **asdict(near)})
            limit = "" if case.limit is None else f"{case.limit} %"
            print(
                f"| {case.name} | {bits:.4f} | {row['percent']:+.3f} % | {limit} | {near.mean_kl_bits:.5f} | "
                f"{near.same_top_token:.1%} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    broken = [row["case"] for row in rows if row["limit"] is not None and row["percent"] > row["limit"]]
    if broken:
        print(f"\nover the limit: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
