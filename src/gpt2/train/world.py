"""The processes of one run: who am I, how many are we, and sums over all of us.

torchrun starts the processes and tells each its place in the environment (RANK, LOCAL_RANK, WORLD_SIZE);
without it there is one. Sums go over gloo on CPUs and NCCL on GPUs. It knows nothing of models or data; how a
model is spread is `spread`: DDP (Li et al., arXiv:2006.15704) has all weights everywhere and sums gradients,
FSDP2 (Zhao et al., arXiv:2304.11277) gives each process a part of every weight.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.errors import TrainingError


@dataclass(frozen=True, slots=True)
class World:
    """One process's view."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[World]:
        """Join the processes that torchrun started, for the length of the block; alone where it did not."""
        ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if ranks == 1:
            yield cls(0, 1, device)
            return
        if not torch.distributed.is_available():
            raise TrainingError(
                "this PyTorch has no torch.distributed", got=f"{ranks} processes", expected="1"
            )
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield cls(rank, ranks, device)
        finally:
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Each number, summed over all processes; float64, and the same bits in all of them."""
        if self.ranks == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return [float(v) for v in values]

    def agree(self, problem: str | None) -> None:
        """Raise TrainingError everywhere if the first process has a problem; otherwise wait for all."""
        if self.ranks > 1 and self.sum(float(self.first and problem is not None))[0] and not self.first:
            raise TrainingError("the first process stopped", likely="its message says why")

    def spread(self, model: nn.Module, blocks: Any, *, shard: bool) -> nn.Module:
        """`model` for training by all processes; alone, the model itself. `blocks` are what FSDP2 gathers one
        at a time."""
        if self.ranks == 1:
            return model
        if shard:
            from torch.distributed.fsdp import fully_shard

            for block in blocks:
                fully_shard(block)
            return fully_shard(model)
        return torch.nn.parallel.DistributedDataParallel(model)

    def accumulating(self, model: nn.Module, more: bool) -> Any:
        """A context for one pass forward and back: gradients are summed over processes only when no `more`
        passes of this step follow."""
        if self.ranks > 1 and hasattr(model, "no_sync") and more:
            return model.no_sync()
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(not more)
        return contextlib.nullcontext()

    def norm(self, parameters: list[nn.Parameter], largest: float) -> Tensor:
        """The norm of all gradients; they are scaled down to `largest` where that is above 0 and below it."""
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        total = total.full_tensor() if hasattr(total, "full_tensor") else total
        if largest > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, total)
        return total
