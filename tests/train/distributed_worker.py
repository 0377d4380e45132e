"""One of the processes of test_distributed.py, started by torchrun: the same runs alone, by DDP and by FSDP2.

    torchrun --nproc-per-node 2 distributed_worker.py FOLDER

The first process writes FOLDER/results.json: the losses of the steps and of the evaluations of each kind of
run, how far the final weights are from those of the run alone, and whether a run goes on from a checkpoint
with the bits that it would have had.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpt2.train.checkpoint import Store
from gpt2.train.loop import Trainer
from gpt2.train.lora import adapt, adapter_of, merged_weights
from gpt2.train.report import Report
from gpt2.train.world import World
from train import runs

STEPS = 50


class Told(Report):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.held_out: list[float] = []

    def step(self, step: int, steps: int, *, loss: float, **facts: Any) -> None:
        self.losses.append(loss)

    def evaluation(self, step: int, loss: float, *, better: bool) -> None:
        self.held_out.append(loss)


CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "lora": {"recipe": "lora", "max_steps": 20},
    "dora": {"recipe": "lora", "dora": True, "max_steps": 20},
    "float16": {"precision": "float16", "max_steps": 20},
}


def trainer(world: World, folder: Path | None = None, **given: Any) -> Trainer:
    how = {"max_steps": STEPS, "lr": 3e-3, "evaluate_every": 10, "checkpoint_every": 1000, **given}
    settings = runs.run_settings(batch=8, micro_batch=2, **how)
    model = runs.tiny()
    if settings.recipe == "lora":
        adapt(model, rank=4, targets=["all"], dora=settings.dora)
    split = {"rank": world.rank, "ranks": world.ranks}
    return Trainer(
        settings,
        model,
        runs.batches(settings, **split),
        runs.batches(settings, seed=9, count=11, **split),
        world=world,
        report=Told(),
        store=None if folder is None else Store(folder),
    )


def weights(run: Trainer) -> torch.Tensor:
    """Of the model, adapters in them."""
    return torch.cat([p.detach().flatten() for _, p in merged_weights(run.model)])


def compared(case: str, kind: str, alone: Trainer, world: World, folder: Path) -> dict[str, Any]:
    more = {**CASES[case], "shard": kind == "fsdp"}
    together = trainer(world, **more)
    assert together.train.accumulation == 2
    together.run()
    found = weights(together)
    half = trainer(world, folder / case / kind, **more)
    for _ in range(10):
        half.step()
    half.save()
    distributed.barrier()
    again = trainer(world, folder / case / kind, **more)
    assert again.resume()
    again.run()
    out = {
        "losses": together.report.losses,
        "held_out": together.report.held_out,
        "weights": float((found - weights(alone)).abs().max()),
        "resumed": bool(torch.equal(found, weights(again))),
    }
    if more.get("recipe") == "lora":
        mine, theirs = (adapter_of(run.model).modules for run in (together, alone))
        out["adapter"] = max(float(abs(m.a - theirs[name].a).max()) for name, m in mine.items())
    return out


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    results = {}
    for case, more in CASES.items():
        alone = trainer(World(), **more)
        alone.run()
        results[case] = {"alone": {"losses": alone.report.losses, "held_out": alone.report.held_out}}
        for kind in ("ddp", "fsdp"):
            results[case][kind] = compared(case, kind, alone, World(rank, ranks), folder)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
