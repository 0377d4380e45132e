"""Before a run begins: how long it takes, what it needs, and whether the machine has it.

    tokens and steps      counted
    memory                weights, gradients and optimiser state are known; what the backward pass keeps is
                          measured on one sequence, without counting what is shared, and scaled
    time                  measured before the run: micro-batches forward and back, and Muon's iterations on a
                          matrix of each shape. AdamW's pass over memory, some percent of a step, is not
    disk                  the checkpoints that are kept at once, the best weights, the model

`Plan.check` refuses with advice where memory or disk will not do. Nothing here changes a weight or a
generator that the run draws from.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpt2.engine.loading import available_bytes
from gpt2.errors import TrainingError
from gpt2.train.objective import on_device
from gpt2.train.optimizer import Muon, orthogonalise
from gpt2.train.report import duration

if TYPE_CHECKING:
    from gpt2.train.loop import Trainer
    from gpt2.train.settings import Settings

SPARE = 256 << 20
"""Bytes for PyTorch itself, its thread pools and what the allocator does not give back."""

COMPILER = 384 << 20
"""Bytes for torch.compile, which stays in memory, and for the gaps between what is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take. Bytes, seconds."""

    parameters: int
    trained: int
    tokens: int
    """Targets of an epoch."""
    held_out: int
    windows: int
    steps: int
    epochs: float
    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass of a micro-batch keeps, and the slice of logits with its matrices."""
    spare: int
    memory: int | None
    """What this process can have; None where that cannot be known."""
    seconds: float
    """Of the whole run, if it is not stopped early."""
    tokens_per_second: float
    checkpoint: int
    disk: int
    """All that the run writes and keeps at once."""
    free: int | None
    """Of the disk."""

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.spare

    def lines(self) -> list[str]:
        """For people."""
        have = "" if self.memory is None else f" of {size(self.memory)}"
        free = "" if self.free is None else f"; {size(self.free)} free"
        return [
            f"parameters   {self.parameters:,}, {self.trained:,} of them trained",
            f"data         {self.tokens:,} tokens in {self.windows:,} sequences; {self.held_out:,} held out",
            f"steps        {self.steps:,} ({self.epochs:.2f} passes over the data)",
            f"time         about {duration(self.seconds)}, at {self.tokens_per_second:,.0f} tokens/s",
            f"memory       about {size(self.peak)}{have}: weights {size(self.weights)}, gradients "
            f"{size(self.gradients)}, optimiser {size(self.optimizer)}, activations {size(self.activations)}",
            f"checkpoints  {size(self.checkpoint)} each, {size(self.disk)} in all{free}",
        ]

    def check(self) -> None:
        """Raise TrainingError where memory or disk will not do."""
        if self.memory is not None and self.peak > self.memory:
            raise TrainingError(
                "the machine has not enough memory for this run",
                got=size(self.memory),
                expected=f"about {size(self.peak)}",
                hint=self._advice(),
            )
        if self.free is not None and self.disk > self.free:
            raise TrainingError(
                "the disk has not enough room for the checkpoints",
                got=f"{size(self.free)} free",
                expected=f"about {size(self.disk)}",
                hint="another --output, or less in it",
            )

    def _advice(self) -> str:
        if self.activations > self.optimizer + self.gradients:
            return "--micro-batch 1 (the same result), a smaller --window, or --activation-checkpointing"
        return "--recipe lora, which needs no gradients of the model's own weights; or a smaller model"


def make_plan(trainer: Trainer, output: Path | None = None) -> Plan:
    """Measure and count. Takes a few micro-batches' time."""
    settings, train = trainer.settings, trainer.train
    parameters = list(trainer.model.parameters())
    trained = [p for _, p in trainer.named]
    count = sum(p.numel() for p in trained)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    gradients = sum(p.numel() * p.element_size() for p in trained)
    state = gradients * (1 if settings.optimizer == "muon" else 2)
    ranks = trainer.world.ranks if settings.shard else 1
    kept, seconds = measured(trainer)
    logits = of_logits(trainer.model.head, settings, train.batch_size * train.window)
    evaluations = math.ceil(trainer.steps / trainer.evaluate_every) + 1
    windows = 0 if trainer.validation is None else min(settings.evaluate_windows, trainer.validation.windows)
    step = seconds * train.accumulation + of_update(trainer)
    whole = step * trainer.steps + seconds / 3 * evaluations * windows / train.batch_size
    per_step = train.epoch_tokens / train.windows * train.rows_per_step
    checkpoint = gradients + state
    return Plan(
        parameters=sum(p.numel() for p in parameters), trained=count, tokens=train.epoch_tokens,
        held_out=0 if trainer.validation is None else trainer.validation.epoch_tokens, windows=train.windows,
        steps=trainer.steps, epochs=train.epoch(trainer.steps), weights=weights // ranks,
        gradients=gradients // ranks, optimizer=state // ranks, activations=kept * train.batch_size + logits,
        spare=SPARE + (COMPILER if settings.compile else 0), memory=memory(trainer.world.device),
        seconds=whole, tokens_per_second=per_step / step,
        checkpoint=checkpoint, disk=(settings.keep + 1) * checkpoint + 2 * gradients + 2 * weights,
        free=None if output is None else shutil.disk_usage(output).free,
    )  # fmt: skip


def measured(trainer: Trainer) -> tuple[int, float]:
    """(bytes that the backward pass keeps for one sequence, seconds for a micro-batch forward and back)."""
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    arrays = on_device(trainer.train.batch(0, 0), trainer.world.device)
    best = math.inf
    trainer.model.train()
    for attempt in range(3):
        began = now(trainer.world.device)
        if attempt == 0:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = trainer._loss(arrays)
        else:
            loss = trainer._loss(arrays)
        loss.backward()
        trainer.optimizers.zero_grad()
        if attempt:  # the first one pays for memory and for the hook
            best = min(best, now(trainer.world.device) - began)
    head = trainer.model.head
    kept = sum(seen.values()) - (head.numel() * 4 if head.requires_grad else 0)  # that one is counted apart
    return max(kept, 0) // trainer.train.batch_size, best


def of_logits(head: torch.Tensor, settings: Settings, rows: int) -> int:
    """Bytes of a slice of logits, of what is made of it, of the narrowed head and its gradient (loss.py)."""
    low = settings.precision != "float32"
    if settings.compile:
        each = 2 if low else 4  # one pass, in their own memory
    else:
        each = 2 + 4 + 4 if low else 4 + 4  # widened where they are narrow, and their exponentials
    matrices = head.numel() * ((2 if low else 0) + (4 if head.requires_grad else 0))
    return int(min(settings.loss_rows, rows) * head.shape[0] * each + matrices)


def of_update(trainer: Trainer) -> float:
    """Seconds of a step of Muon; 0 without it."""
    shapes = Counter(
        (tuple(matrix.shape), matrix.dtype)
        for optimizer in trainer.optimizers.all
        if isinstance(optimizer, Muon)
        for matrix in optimizer.matrices()
    )
    total = 0.0
    for (shape, dtype), count in shapes.items():
        matrix = torch.eye(*shape, dtype=dtype, device=trainer.world.device)
        orthogonalise(matrix)  # the first one pays for memory
        began = now(trainer.world.device)
        orthogonalise(matrix)
        total += count * (now(trainer.world.device) - began)
    return total


def now(device: torch.device) -> float:
    """Seconds; what was asked of a GPU before is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def memory(device: torch.device) -> int | None:
    """What this process can have, with what it has already: of the GPU, of the machine, of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    available = available_bytes() + resident
    return min(available, _container() or available)


def _container() -> int | None:
    """The limit of the container, where one is set."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 50:
            return int(text)
    return None


def size(count: int) -> str:
    """1.5 GB, 310 MB, 12 kB."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:,.3g} {unit}"
    return f"{count} B"
