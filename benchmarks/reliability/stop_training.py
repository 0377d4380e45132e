"""R11: how long a training run takes to save and to end when it is asked to (SIGTERM). The limit is ten
seconds.

    python benchmarks/reliability/stop_training.py                 # 124M parameters, windows of 1024, 5 stops
    python benchmarks/reliability/stop_training.py --shape 355M --recipe lora

A random model is trained on random tokens by the loop of `gpt2 finetune`, in a process of its own; the signal
comes at a random time, and the clock runs from there to the end of the process, whose checkpoint must be
whole. Prints a line for each stop and one of JSON; exit 1 where a stop took longer than --limit or lost its
state.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gpt2.config import KNOWN_SIZES
from gpt2.model import GPT2
from gpt2.train.checkpoint import Store
from gpt2.train.data import Batches, Split
from gpt2.train.loop import Trainer
from gpt2.train.lora import adapt
from gpt2.train.report import Report
from gpt2.train.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shapes import SHAPES


def train(folder: Path, args: argparse.Namespace) -> None:
    """Train until somebody ends it; the file `started` says that steps are being made."""
    torch.set_num_threads(args.threads)
    settings = Settings.of(
        args.recipe, batch=8, window=args.window, packing="stream", max_steps=10**6, epochs=1e6,
        checkpoint_every=10**6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2(KNOWN_SIZES[SHAPES[args.shape]])
    if args.recipe == "lora":
        adapt(model, targets=["all"])
    ids = np.random.default_rng(0).integers(0, 50257, (8, args.window))
    split = Split.of(list(ids), vocab_size=50257, eos_id=50256)
    micro = max(1, 2048 // args.window)  # the default of a CPU
    batches = Batches(split, window=args.window, batch=micro, accumulation=8 // micro, packing="stream")
    with Store(folder / "checkpoints").locked() as store:
        trainer = Trainer(settings, model, batches, store=store, report=Report(folder))
        (folder / "started").touch()
        trainer.run()


def stop(folder: Path, args: argparse.Namespace, wait: float) -> float:
    """Seconds from the signal to the end of the process."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=(folder, args))
    process.start()
    while not (folder / "started").exists():
        if process.exitcode is not None:
            raise SystemExit(f"the run ended by itself, status {process.exitcode}")
        time.sleep(0.05)
    time.sleep(wait)
    assert process.pid is not None
    began = time.monotonic()
    process.terminate()
    process.join()
    taken = time.monotonic() - began
    if process.exitcode != 128 + signal.SIGTERM or Store(folder / "checkpoints").newest() is None:
        raise SystemExit(f"the state is lost: status {process.exitcode}")
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--recipe", choices=("finetune", "lora"), default="finetune")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draws, taken = random.Random(args.seed), []
    for _ in range(args.stops):
        wait = draws.uniform(2.0, 25.0)
        with tempfile.TemporaryDirectory() as folder:
            taken.append(stop(Path(folder), args, wait))
        print(f"asked after {wait:.1f} s: {taken[-1]:.1f} s", file=sys.stderr, flush=True)
    facts = {"shape": args.shape, "recipe": args.recipe, "seconds": [round(t, 2) for t in taken]}
    print(json.dumps({**facts, "median": round(statistics.median(taken), 2), "most": round(max(taken), 2)}))
    return int(max(taken) > args.limit)


if __name__ == "__main__":
    sys.exit(main())
