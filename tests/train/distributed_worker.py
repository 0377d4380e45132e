"""One of the processes of test_distributed.py, started by torchrun: the same run alone, by DDP and by FSDP2.

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
from gpt2.train.optimizer import whole
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


def trainer(world: World, folder: Path | None = None, **given: Any) -> Trainer:
    settings = runs.run_settings(
        batch=8, micro_batch=2, max_steps=STEPS, evaluate_every=10, lr=3e-3, checkpoint_every=1000, **given
    )
    split = {"rank": world.rank, "ranks": world.ranks}
    return Trainer(
        settings,
        runs.tiny(),
        runs.batches(settings, **split),
        runs.batches(settings, seed=9, count=11, **split),
        world=world,
        report=Told(),
        store=None if folder is None else Store(folder),
    )


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([whole(p).detach().flatten() for _, p in run.named])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    alone = trainer(World())
    alone.run()
    results = {"alone": {"losses": alone.report.losses, "held_out": alone.report.held_out}}
    for kind, more in (("ddp", {}), ("fsdp", {"shard": True})):
        world = World(rank, ranks)
        together = trainer(world, **more)
        assert together.train.accumulation == 2
        together.run()
        found = weights(together)
        half = trainer(world, folder / kind, **more)
        for _ in range(20):
            half.step()
        half.save()
        distributed.barrier()
        again = trainer(world, folder / kind, **more)
        assert again.resume()
        again.run()
        results[kind] = {
            "losses": together.report.losses,
            "held_out": together.report.held_out,
            "weights": float((found - weights(alone)).abs().max()),
            "resumed": bool(torch.equal(found, weights(again))),
        }
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
