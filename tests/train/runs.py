"""Small runs for the tests of the training room: a tiny GPT-2, random documents with something to learn in
them, and both as batches.

Importing it needs PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2.config import GPT2Config
from gpt2.model import GPT2
from gpt2.train.checkpoint import Store
from gpt2.train.data import Batches, Split
from gpt2.train.loop import Trainer
from gpt2.train.report import Report
from gpt2.train.settings import Settings

V, T = 61, 16
EOS = 60

SMALL: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16}


def tiny(seed: int = 0, **config: Any) -> GPT2:
    """A fresh model: L=2, H=2, C=16, T<=32, V=61, no dropout unless asked for."""
    shape = {"vocab_size": V, "n_positions": 32, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    torch.manual_seed(seed)
    return GPT2(GPT2Config(**{**SMALL, **shape, **config}, bos_token_id=EOS, eos_token_id=EOS))


def documents(count: int = 40, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Each counts upwards by a step of its own from a place of its own: a pattern that a model can learn."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        length, step = int(rng.integers(3, 30)), int(rng.integers(1, 4))
        out.append((rng.integers(EOS) + step * np.arange(length)) % EOS)
    return out


def split(count: int = 40, seed: int = 0, name: str = "train") -> Split:
    return Split.of(documents(count, seed), vocab_size=V, eos_id=EOS, name=name)


def batches(settings: Settings, seed: int = 0, count: int = 40, **more: Any) -> Batches:
    rows = settings.micro_batch or settings.batch
    ranks = more.get("ranks", 1)
    return Batches(
        split(count, seed),
        window=settings.window or T,
        batch=rows,
        seed=settings.seed,
        packing=settings.packing,
        accumulation=settings.batch // (rows * ranks),
        **more,
    )


def run_settings(recipe: Any = "finetune", **given: Any) -> Settings:
    defaults = {
        "data": ("x",),
        "window": T,
        "batch": 4,
        "lr": 1e-2,
        "max_steps": 12,
        "evaluate_every": 4,
        "patience": 0,
        "checkpoint_every": 3,
        "warmup": 2.0,
        "threads": 1,
    }
    return Settings.of(recipe, **{**defaults, **given})


def trainer(
    folder: Path | None = None,
    *,
    model: GPT2 | None = None,
    report: Report | None = None,
    count: int = 40,
    **given: Any,
) -> Trainer:
    """A run on tiny data, with checkpoints in a folder where there is one (not locked)."""
    torch.set_num_threads(1)
    settings = run_settings(**given)
    return Trainer(
        settings,
        model or tiny(),
        batches(settings, count=count),
        batches(settings, seed=9, count=10),
        store=None if folder is None else Store(folder, keep=settings.keep),
        report=report,
        facts={"data": "d"},
    )


def weights(model: GPT2) -> bytes:
    """All parameters' bits, in order."""
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())
