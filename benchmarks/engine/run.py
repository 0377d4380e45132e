"""Decode and prefill of the 124M shape in float32 beside transformers (eager) and onnxruntime, in one
interleaved run.

    python benchmarks/engine/run.py                       # everything that is installed; about five minutes
    on two cores python benchmarks/engine/run.py --rounds 9 --threads 2 --only gpt2,transformers

Every engine runs in a process of its own on the same randomly initialised checkpoint, and they take turns:
in each round each one decodes and prefills once. Quoted are medians over the rounds, and the ratio to each
peer round by round, which holds when the speed of the machine drifts. The last line is JSON. Peers need
`pip install transformers onnxruntime onnx`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import peers

PROMPT, PREFILL = 32, 512


def measure(engine: Any, new_tokens: int) -> dict[str, float]:
    """Tokens per second of one stream after a prompt of 32, and of reading a prompt of 512."""
    ids = np.random.default_rng(0).integers(0, 50257, PREFILL)
    engine.start(ids[:PROMPT])
    began = time.perf_counter()
    for _ in range(new_tokens):
        engine.step()
    decode = new_tokens / (time.perf_counter() - began)
    began = time.perf_counter()
    engine.start(ids)
    return {"decode": decode, "prefill": PREFILL / (time.perf_counter() - began)}


def worker(pipe: Connection, name: str, folder: str, threads: int, new_tokens: int) -> None:
    engine = peers.ENGINES[name](Path(folder), threads)
    measure(engine, 4)  # warm-up
    pipe.send("ready")
    while pipe.recv() == "go":
        result = measure(engine, new_tokens)
        result["peak_mb"] = peak_megabytes()
        pipe.send(result)


def peak_megabytes() -> float:
    """The largest resident size so far. Not getrusage's, which counts the parent's before exec, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def read_bandwidth(threads: int, megabytes: int) -> float:
    """GB/s of summing float32 with `threads` threads, best of five: what a decoded token could reach at
    most."""
    data = [np.ones(megabytes * 250_000 // threads, dtype=np.float32) for _ in range(threads)]
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=np.add.reduce, args=(part,)) for part in data]
        began = time.perf_counter()
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        best = max(best, sum(part.nbytes for part in data) / (time.perf_counter() - began) / 1e9)
    return best


def run(names: list[str], folder: str, args: argparse.Namespace) -> tuple[dict[str, Any], list[float]]:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in names:
        ours, theirs = context.Pipe()
        arguments = (theirs, name, folder, args.threads, args.tokens)
        context.Process(target=worker, args=arguments, daemon=True).start()
        theirs.close()  # so that a worker that dies is the end of the pipe, not a wait for ever
        if ours.recv() == "ready":
            pipes[name] = ours
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    bandwidth = []
    for _ in range(args.rounds):
        bandwidth.append(read_bandwidth(args.threads, 500))
        for name, pipe in pipes.items():
            pipe.send("go")
            results[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("stop")
    return results, bandwidth


def report(
    results: dict[str, Any], bandwidth: list[float], args: argparse.Namespace, token_bytes: int
) -> None:
    """The table, the ratios and the JSON line."""
    limit = statistics.median(bandwidth)
    print(f"124M shape, float32, {args.threads} threads, {args.rounds} rounds; reads {limit:.1f} GB/s")
    print(f"{'engine':<16}{'decode tok/s':>24}{'of bandwidth':>14}{'prefill tok/s':>26}{'peak MB':>10}")
    summary: dict[str, Any] = {"threads": args.threads, "rounds": args.rounds, "read_gb_s": round(limit, 2)}
    for name, rounds in results.items():
        row = {key: [r[key] for r in rounds] for key in ("decode", "prefill", "peak_mb")}
        middle = {key: statistics.median(values) for key, values in row.items()}
        share = middle["decode"] * token_bytes / 1e9 / limit
        spread = {key: f"{middle[key]:8.1f} ({min(v):.1f}-{max(v):.1f})" for key, v in row.items()}
        decode, prefill = spread["decode"], spread["prefill"]
        print(f"{name:<16}{decode:>24}{share:>13.0%} {prefill:>26}{middle['peak_mb']:>10.0f}")
        ratios = {
            key: statistics.median(
                ours[key] / r[key] for ours, r in zip(results["gpt2"], rounds, strict=True)
            )
            for key in ("decode", "prefill")
        }
        summary[name] = {**{k: round(v, 2) for k, v in middle.items()}, "bandwidth_share": round(share, 3)}
        summary[name]["gpt2_is_faster_by"] = {k: round(v, 3) for k, v in ratios.items()}
    for name in results:
        if name != "gpt2":
            faster = summary[name]["gpt2_is_faster_by"]
            print(f"gpt2 / {name}: decode {faster['decode']:.2f}x, prefill {faster['prefill']:.2f}x")
    print(json.dumps(summary))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=32, help="tokens decoded in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default=",".join(peers.ENGINES), help="gpt2 and peers, comma-separated")
    args = parser.parse_args()
    names = [name for name in args.only.split(",") if peers.available(name)]
    with tempfile.TemporaryDirectory() as folder:
        token_bytes = peers.make_checkpoint(Path(folder))
        results, bandwidth = run(names, folder, args)
    report(results, bandwidth, args, token_bytes)


if __name__ == "__main__":
    main()
