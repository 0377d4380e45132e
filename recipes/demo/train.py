"""Train the demo model, reproducibly, on two CPU cores.

    python recipes/demo/train.py --data OUT/data --out OUT/run

Reads `train.bin`, `held_out.bin` and `prepare.json` of prepare.py; writes `checkpoint.pt` (every few minutes,
by atomic rename), `final.pt` and `log.jsonl`. A run that was cut goes on where its last checkpoint stands, to
the same bits: the schedule counts steps, not seconds, and a step's data depend on the seed and the step's
number alone.

What it settles (`Plan`): Muon for the block matrices, AdamW for embeddings, biases and LayerNorms; learning
rates that warm up, stay, and fall along straight lines to zero. No dropout: the run sees its text 1.3 times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from muon import Muon

from model import DemoGPT2, Shape

Ids = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the result depends on, besides the data."""

    seed: int = 1
    threads: int = 2
    batch: int = 16
    n_positions: int = 512
    n_embd: int = 256
    n_layer: int = 5
    n_head: int = 4
    muon_lr: float = 0.012
    adam_lr: float = 0.003
    weight_decay: float = 0.01
    warmup: int = 60
    steps: int = 2800
    slopes: tuple[tuple[int, float], ...] = ((1400, 0.0005), (2050, 0.0009))
    """(from this step on, share of the peak learning rates lost at each step): 1 -> 0.675 -> 0 here.

    The second, steeper slope was set while the run was under way, to end it in two hours on a busy machine.
    """

    def rate(self, step: int) -> float:
        """The share of the peak learning rates at a step."""
        share = 1.0
        ends = [start for start, _ in self.slopes[1:]] + [self.steps]
        for (start, slope), end in zip(self.slopes, ends, strict=True):
            if step > start:
                share = -slope * (min(step, end) - start) + share
        return min((step + 1) / self.warmup, share)


class Windows:
    """Windows of T + 1 tokens: each pass over the text cuts at a fresh offset and takes a fresh order."""

    def __init__(self, ids: Ids, plan: Plan) -> None:
        self.ids, self.plan = ids, plan
        self.per_pass = (len(ids) - plan.n_positions - 1) // plan.n_positions // plan.batch
        self.cached: tuple[int, npt.NDArray[np.int64]] | None = None

    def starts(self, number: int) -> npt.NDArray[np.int64]:
        if self.cached is None or self.cached[0] != number:
            rng = np.random.default_rng([self.plan.seed, number])
            offset = int(rng.integers(self.plan.n_positions))
            order = rng.permutation(self.per_pass * self.plan.batch)
            self.cached = (number, offset + order * self.plan.n_positions)
        return self.cached[1]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, [B, T] each, of a step."""
        number, i = divmod(step, self.per_pass)
        starts = self.starts(number)[i * self.plan.batch : (i + 1) * self.plan.batch]
        rows = np.stack([self.ids[s : s + self.plan.n_positions + 1] for s in starts]).astype(np.int64)
        tokens = torch.from_numpy(rows)
        return tokens[:, :-1], tokens[:, 1:].contiguous()


class Trainer:
    def __init__(self, plan: Plan, data: Path, out: Path) -> None:
        self.plan, self.out = plan, out
        facts = json.loads((data / "prepare.json").read_text("utf-8"))
        self.windows = Windows(np.fromfile(data / "train.bin", np.uint16), plan)
        self.held_out = np.fromfile(data / "held_out.bin", np.uint16)
        self.held_out_bytes_per_token: float = facts["held_out_bytes"] / len(self.held_out)
        torch.manual_seed(plan.seed)
        self.model = DemoGPT2(
            Shape(
                vocab_size=facts["vocab_size"],
                n_positions=plan.n_positions,
                n_embd=plan.n_embd,
                n_layer=plan.n_layer,
                n_head=plan.n_head,
            )
        )
        self.model.compile_blocks()
        named = list(self.model.named_parameters())
        matrices = [(n, p) for n, p in named if p.dim() == 2 and n.startswith("blocks.")]
        others = [p for n, p in named if p.dim() != 2 or not n.startswith("blocks.")]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=plan.adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
        self.step, self.seconds = 0, 0.0

    def train_step(self) -> float:
        rate = self.plan.rate(self.step)
        loss = self.model.loss(*self.windows.batch(self.step))
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.param_groups[0]["lr"] = self.plan.adam_lr * rate
        self.adam.step()
        self.muon.step(self.plan.muon_lr * rate, self.plan.weight_decay)
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def held_out_bits_per_byte(self, batches: int = 8) -> float:
        """A quick look, for the learning curve: windows spread over the held-out novels, none overlapping."""
        t, b = self.plan.n_positions, self.plan.batch
        starts = np.linspace(0, len(self.held_out) - t - 2, batches * b).astype(np.int64)
        losses = []
        for i in range(batches):
            rows = np.stack([self.held_out[s : s + t + 1] for s in starts[i * b : (i + 1) * b]]).astype(
                np.int64
            )
            tokens = torch.from_numpy(rows)
            losses.append(float(self.model.loss(tokens[:, :-1], tokens[:, 1:].contiguous())))
        return float(np.mean(losses)) / math.log(2) / self.held_out_bytes_per_token

    def save(self, name: str) -> None:
        state: dict[str, Any] = {
            "plan": asdict(self.plan),
            "shape": asdict(self.model.shape),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "adam": self.adam.state_dict(),
            "muon": self.muon.state_dict(),
        }
        torch.save(state, self.out / (name + ".part"))
        os.replace(self.out / (name + ".part"), self.out / name)

    def resume(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", weights_only=True)
        if state["plan"] != asdict(self.plan):
            print(f"note: the checkpoint was made with another plan: {state['plan']}", flush=True)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
        self.step, self.seconds = state["step"], state["seconds"]

    def run(self, stop_at: int, log_every: int, look_every: int, save_every: int) -> None:
        """Train up to a step (the plan's last, unless a trial stops sooner)."""
        log = (self.out / "log.jsonl").open("a", encoding="utf-8")
        began, losses = time.monotonic() - self.seconds, []
        while self.step < stop_at:
            losses.append(self.train_step())
            self.seconds = time.monotonic() - began
            done = self.step == self.plan.steps
            line: dict[str, float] = {}
            if self.step % log_every == 0 or done:
                line = {
                    "step": self.step,
                    "loss": round(float(np.mean(losses)), 5),
                    "seconds": round(self.seconds, 1),
                }
                losses = []
            if self.step % look_every == 0 or done:
                line["held_out_bits_per_byte"] = round(self.held_out_bits_per_byte(), 5)
            if line:
                print(json.dumps(line), file=log, flush=True)
            if self.step % save_every == 0 or done:
                self.save("checkpoint.pt")
        if self.step == self.plan.steps:
            self.save("final.pt")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the output folder of prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="where checkpoints and the log go")
    parser.add_argument("--stop-at", type=int, help="stop after this step: for a trial")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change a number of the plan: for a trial"
    )
    args = parser.parse_args()
    changes = {k: type(getattr(Plan(), k))(v) for k, v in (item.split("=") for item in args.set)}
    plan = Plan(**changes)
    torch.set_num_threads(plan.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(plan, args.data, args.out)
    if (args.out / "checkpoint.pt").exists():
        trainer.resume()
    trainer.run(args.stop_at or plan.steps, log_every=20, look_every=200, save_every=50)


if __name__ == "__main__":
    main()
