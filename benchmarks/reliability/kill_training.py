"""R11: a training run that is killed at random moments ends with the weights that it would have had.

    python benchmarks/reliability/kill_training.py --kills 100

One run is left alone: its weights' SHA-256 is the truth. Then the same run is started again and again in its
folder, each time killed (SIGKILL) after a random time; every second kill waits until a checkpoint is being
written and strikes within it. A run that reaches its end is compared and another one begins, until there were
as many kills as asked for. The run has dropout, momentum, evaluations and best weights to lose. Processes are
forked from one that has imported everything and computed nothing, so that a start takes milliseconds.

Prints a line of JSON; exit 1 at the first difference, or when a run ends otherwise than by the kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from gpt2.config import GPT2Config
from gpt2.model import GPT2
from gpt2.train.checkpoint import Store
from gpt2.train.data import Batches, Split
from gpt2.train.loop import Trainer
from gpt2.train.report import Report
from gpt2.train.settings import Settings

V, EOS, T = 97, 96, 24


def split(count: int, seed: int) -> Split:
    """Documents that count upwards, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    made = [
        (rng.integers(EOS) + rng.integers(1, 4) * np.arange(rng.integers(3, 40))) % EOS for _ in range(count)
    ]
    return Split.of(made, vocab_size=V, eos_id=EOS)


def train(folder: Path, steps: int) -> str:
    """Begin or go on, to the end; the SHA-256 of the weights."""
    torch.set_num_threads(1)
    settings = Settings.of(
        "finetune", data=("made here",), window=T, batch=4, micro_batch=2, lr=3e-3, max_steps=steps,
        warmup=3.0, evaluate_every=5, patience=0, checkpoint_every=3, packing="documents", epochs=1e4,
    )  # fmt: skip
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=V,
        n_positions=T,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.1,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    model = GPT2(shape)
    parts = {"window": T, "batch": 2, "accumulation": 2, "seed": 0}
    with Store(folder / "checkpoints").locked() as store:
        trainer = Trainer(
            settings, model, Batches(split(60, 0), **parts), Batches(split(8, 1), **parts),
            store=store, report=Report(folder, log_every=1),
        )  # fmt: skip
        trainer.resume()
        trainer.run()
    bits = hashlib.sha256()
    for parameter in model.parameters():
        bits.update(parameter.detach().numpy().tobytes())
    return bits.hexdigest()


def start(folder: Path, steps: int) -> int:
    """A process that trains and writes its weights' hash into `result`; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        (folder / "result").write_text(train(folder, steps))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for_save(folder: Path, pid: int) -> None:
    """Until a checkpoint is being written, or the process is gone."""
    while not os.path.exists(f"/proc/{pid}/stat") or _alive(pid):
        if any(
            name.endswith(".part") and name.startswith(".step") for name in _listing(folder / "checkpoints")
        ):
            return


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _alive(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60, help="of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    bits, began = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "whole").mkdir()
        moment = time.monotonic()
        _, status = os.waitpid(start(root / "whole", args.steps), 0)
        whole_seconds = time.monotonic() - moment
        if status:
            print("the run that was left alone failed", file=sys.stderr)
            return 1
        truth = (root / "whole" / "result").read_text()
        log = [(e["event"], e["step"], e["loss"]) for e in events(root / "whole")]
        kills = in_save = runs = 0
        folder = root / "killed"
        while kills < args.kills or folder.exists():
            folder.mkdir(exist_ok=True)
            pid = start(folder, args.steps)
            last = kills >= args.kills  # this one may end
            if not last:
                if kills % 2:
                    wait_for_save(folder, pid)
                    time.sleep(bits.random() * 0.004)
                else:
                    time.sleep(bits.random() * whole_seconds * 0.4)
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                in_save += any(name.startswith(".") for name in _listing(folder / "checkpoints"))
                continue
            if status or (folder / "result").read_text() != truth:
                print(f"after {kills} kills the weights differ, or the run failed", file=sys.stderr)
                return 1
            if [(e["event"], e["step"], e["loss"]) for e in events(folder)] != log:
                print(f"after {kills} kills the log of losses differs", file=sys.stderr)
                return 1
            runs += 1
            shutil.rmtree(folder)
    facts = {
        "kills": kills, "within a save": in_save, "runs": runs, "differences": 0, "sha256": truth[:16],
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(facts))
    return 0


def events(folder: Path) -> list[dict[str, object]]:
    """The lines of the log that have a loss."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if "loss" in event]


if __name__ == "__main__":
    sys.exit(main())
