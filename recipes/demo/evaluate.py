"""Measure the exported demo model on the held-out novels: bits per byte, beside its baselines.

    python recipes/demo/evaluate.py --data OUT/data --model src/gpt2/assets/demo --log OUT/run/log.jsonl

Writes results.json and learning-curve.svg beside this file.

The protocol. Each held-out novel is one document that starts from <|endoftext|>. All of its cleaned UTF-8
text is tokenised and every token is scored exactly once, so every byte is; bits per byte are the sum of -log2
p over all five novels divided by the number of their bytes. Windows are n_positions long. The headline figure
moves the window by half its length and scores what was not scored before; the figure without overlap is given
too. The weights are those of the exported bfloat16 file, the arithmetic is float32.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import KneserNey, compressed_bits_per_byte
from export import MODULES
from safetensors.torch import load_file

from model import DemoGPT2, Shape

HERE = Path(__file__).parent


def load_exported(folder: Path) -> DemoGPT2:
    """The exported weights in float32: the names and the layout of export.py, undone."""
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    model = DemoGPT2(Shape(**{name: fields[name] for name in Shape.__dataclass_fields__}))
    ours = {theirs: name for name, theirs in MODULES.items()}
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensor = tensor.float()
        for theirs, module in ours.items():
            if f".{theirs}." in name:
                name = name.replace(theirs, module)
                tensor = tensor.t() if name.endswith("weight") else tensor
        inner = name.startswith(("h.", "ln_f."))
        state["blocks." + name if inner else name] = tensor
    model.load_state_dict(state)
    return model.eval()


def windows(tokens: int, length: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, end, first scored) of the targets that each window predicts; together they cover 1..tokens-1
    once.

    Example: 7 tokens, length 4, stride 2 -> (0, 4, 0), (2, 6, 2): targets 1..4, then 5..6.
    """
    found, scored, start = [], 0, 0
    targets = tokens - 1
    while scored < targets:
        end = min(start + length, targets)
        found.append((start, end, scored - start))
        scored, start = end, start + stride
    return found


@torch.no_grad()
def network_bits(model: DemoGPT2, document: torch.Tensor, stride: int, batch: int = 8) -> float:
    """-log2 of the probability of every token of a document [T] after its first."""
    length = model.shape.n_positions
    spans = windows(len(document), length, stride)
    total = 0.0
    for i in range(0, len(spans), batch):
        rows = torch.zeros(batch, length, dtype=torch.long)
        for row, (start, end, _) in zip(rows, spans[i : i + batch], strict=False):
            row[: end - start] = document[start:end]
        hidden = model.hidden(rows)
        for h, (start, end, first) in zip(hidden, spans[i : i + batch], strict=False):
            logits = h[first : end - start] @ model.wte.weight.T  # [scored, V]
            targets = document[start + 1 + first : end + 1]
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total / math.log(2)


def learning_curve(log: Path) -> list[tuple[int, float]]:
    """(step, held-out bits per byte) as logged by train.py; of steps that a resumed run repeats, the last."""
    points = {}
    for line in log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if "held_out_bits_per_byte" in entry:
            points[int(entry["step"])] = float(entry["held_out_bits_per_byte"])
    return sorted(points.items())


def draw(points: list[tuple[int, float]], lines: dict[str, float]) -> str:
    """The learning curve and the baselines as an SVG, small enough to read in a diff."""
    width, height, left, bottom = 640, 360, 50, 40
    top = max([*lines.values(), points[0][1]]) + 0.1
    low = min(y for _, y in points) - 0.1

    def at(step: float, bits: float) -> str:
        x = left + (width - left - 110) * step / points[-1][0]
        return f"{x:.1f},{(height - bottom) * (top - bits) / (top - low):.1f}"

    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for name, bits in lines.items():
        (x1, y), (x2, _) = at(0, bits).split(","), at(points[-1][0], bits).split(",")
        svg.append(f'<path d="M{x1},{y} H{x2}" stroke="#999" stroke-dasharray="4 3"/>')
        label = f'x="{x2}" y="{float(y) - 4:.1f}" text-anchor="end" fill="#555"'
        svg.append(f"<text {label}>{name} {bits:.2f}</text>")
    path = " ".join(at(*p) for p in points)
    svg.append(f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="2"/>')
    x, y = at(*points[-1]).split(",")
    svg.append(
        f'<text x="{float(x) + 5:.1f}" y="{float(y) + 4:.1f}" fill="#06c">model {points[-1][1]:.2f}</text>'
    )
    ticks = np.arange(np.ceil(low * 5) / 5, top, 0.2)
    svg += [f'<text x="8" y="{float(at(0, t).split(",")[1]) + 4:.1f}">{t:.1f}</text>' for t in ticks]
    svg.append(
        f'<text x="{left}" y="{height - 12}">held-out bits per byte, by step (0 to {points[-1][0]:,})</text>'
    )
    return "\n".join([*svg, "</svg>", ""])


def measure(data: Path, folder: Path) -> dict[str, Any]:
    facts = json.loads((data / "prepare.json").read_text("utf-8"))
    text = b"".join((data / "held_out" / f"{title}.txt").read_bytes() for title in facts["held_out"])
    ids = np.fromfile(data / "held_out.bin", np.uint16).astype(np.int64)
    starts = [*np.flatnonzero(ids == facts["vocab_size"] - 1), len(ids)]
    documents = [ids[a:b] for a, b in pairwise(starts)]
    sizes = [(data / "held_out" / f"{title}.txt").stat().st_size for title in facts["held_out"]]
    model = load_exported(folder)
    n = model.shape.n_positions
    half = [network_bits(model, torch.from_numpy(d), n // 2) for d in documents]
    apart = [network_bits(model, torch.from_numpy(d), n) for d in documents]
    ngram = KneserNey(np.fromfile(data / "train.bin", np.uint16).astype(np.int64), facts["vocab_size"])
    return {
        "held_out_bytes": len(text),
        "held_out_tokens": len(ids),
        "bits_per_byte": {
            "model, stride n_positions / 2": sum(half) / len(text),
            "model, no overlap": sum(apart) / len(text),
            "5-gram, modified Kneser-Ney": sum(map(ngram.bits, documents)) / len(text),
            **compressed_bits_per_byte(text),
        },
        "by_novel": {t: h / s for t, h, s in zip(facts["held_out"], half, sizes, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the output folder of prepare.py")
    parser.add_argument("--model", type=Path, required=True, help="the directory that export.py wrote")
    parser.add_argument("--log", type=Path, help="log.jsonl of train.py, for the learning curve")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = measure(args.data, args.model)
    results = json.loads(json.dumps(results), parse_float=lambda x: round(float(x), 4))
    if args.log:
        results["learning_curve"] = learning_curve(args.log)
        lines = {k: v for k, v in results["bits_per_byte"].items() if not k.startswith("model")}
        (HERE / "learning-curve.svg").write_text(draw(results["learning_curve"], lines), encoding="utf-8")
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results["bits_per_byte"], indent=2))


if __name__ == "__main__":
    main()
