"""Measure the bundled model on the held-out novels: bits per byte, beside its baselines.

    python recipes/demo/evaluate.py --data OUT/data --model OUT/model --log OUT/model/run/log.jsonl

Prints the figures; with the log of the run it writes them, too, with the curve: results.json and
learning-curve.svg beside this file.

The protocol. Each held-out novel is one document that starts from <|endoftext|>. All of its cleaned UTF-8
text is tokenised and every token is scored exactly once, so every byte is; bits per byte are the sum of -log2
p over all five novels divided by the number of their bytes. Windows are n_positions long. The headline figure
moves the window by half its length and scores what was not scored before; the figure without overlap is given
too. The weights are those of the model directory, the arithmetic is float32.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from baselines import KneserNey, compressed_bits_per_byte

import gpt2
from gpt2.train.report import read_log

HERE = Path(__file__).parent


def network_bits(model: gpt2.LanguageModel, text: str, stride: int) -> float:
    """-log2 of the probability of a text."""
    return -model.score(text, stride=stride).total / math.log(2)


def learning_curve(log: Path, bytes_per_token: float) -> list[tuple[int, float]]:
    """(step, held-out bits per byte) of the evaluations that the run made."""
    looks = (event for event in read_log(log) if event["event"] == "evaluation")
    return [(int(e["step"]), float(e["loss"]) / math.log(2) / bytes_per_token) for e in looks]


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


def measure(data: Path, folder: Path, threads: int) -> dict[str, Any]:
    facts = json.loads((data / "prepare.json").read_text("utf-8"))
    model = gpt2.load(folder, threads=threads)
    encode, end = model.tokenizer.encode, [model.tokenizer.eos_id]
    texts = [(data / "held_out" / f"{title}.txt").read_text("utf-8") for title in facts["held_out"]]
    documents = [np.array(end + encode(text), np.int64) for text in texts]
    sizes = [len(text.encode()) for text in texts]
    n, total = model.config.n_positions, sum(sizes)
    half = [network_bits(model, text, n // 2) for text in texts]
    apart = [network_bits(model, text, n) for text in texts]
    read = [end + encode((data / "train" / f"{title}.txt").read_text("utf-8")) for title in facts["train"]]
    ngram = KneserNey(np.concatenate([np.array(ids, np.int64) for ids in read]), facts["vocab_size"])
    return {
        "held_out_bytes": total,
        "held_out_tokens": sum(map(len, documents)),
        "bits_per_byte": {
            "model, stride n_positions / 2": sum(half) / total,
            "model, no overlap": sum(apart) / total,
            "5-gram, modified Kneser-Ney": sum(map(ngram.bits, documents)) / total,
            **compressed_bits_per_byte("".join(texts).encode()),
        },
        "by_novel": {t: h / s for t, h, s in zip(facts["held_out"], half, sizes, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the output folder of prepare.py")
    parser.add_argument("--model", type=Path, required=True, help="the directory of the model")
    parser.add_argument("--log", type=Path, help="the log of the run, for the learning curve")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    results = measure(args.data, args.model, args.threads)
    results = json.loads(json.dumps(results), parse_float=lambda x: round(float(x), 4))
    if args.log:
        bytes_per_token = results["held_out_bytes"] / results["held_out_tokens"]
        curve = learning_curve(args.log, bytes_per_token)
        results["learning_curve"] = [(step, round(bits, 4)) for step, bits in curve]
        lines = {k: v for k, v in results["bits_per_byte"].items() if not k.startswith("model")}
        (HERE / "learning-curve.svg").write_text(draw(results["learning_curve"], lines), encoding="utf-8")
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results["bits_per_byte"], indent=2))


if __name__ == "__main__":
    main()
