"""Random adapters, ours and PEFT's, for the tests of several rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import GPT2Config
from gpt2.weights.adapters import LINEARS, Adapter, LowRank, linear_shapes
from machine import need


def random_adapter(
    config: GPT2Config,
    seed: int = 0,
    *,
    rank: int = 3,
    alpha: float = 6.0,
    targets: tuple[str, ...] = LINEARS,
    dora: bool = False,
    rslora: bool = False,
) -> Adapter:
    """All blocks, in float32; large enough that the logits move by much more than rounding."""
    rng = np.random.default_rng(seed)
    modules = {}
    for name, (inputs, outputs) in linear_shapes(config).items():
        if name.split(".", 2)[2] not in targets:
            continue
        modules[name] = LowRank(
            a=rng.normal(0, 1 / np.sqrt(inputs), (rank, inputs)).astype(np.float32),
            b=rng.normal(0, 0.3, (outputs, rank)).astype(np.float32),
            alpha=alpha,
            rslora=rslora,
            magnitude=rng.uniform(0.5, 2.0, outputs).astype(np.float32) if dora else None,
        )
    return Adapter(modules=modules)


def changed_weight(weight: np.ndarray[Any, Any], module: LowRank) -> np.ndarray[Any, Any]:
    """What the adapter makes of W [in, out], in float64."""
    changed = weight.astype(np.float64) + module.delta()
    if module.magnitude is not None:
        changed *= module.magnitude / np.linalg.norm(changed, axis=0)
    return changed  # type: ignore[no-any-return]


def peft_model(base: Any, seed: int = 0, **config: Any) -> Any:
    """PEFT's model around a transformers one, with a random adapter."""
    try:
        import peft
    except ImportError:
        need(False, "peft is not installed: pip install -e '.[dev]'")
    import torch

    defaults = {"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    model = peft.get_peft_model(base, peft.LoraConfig(**{**defaults, **config})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.uniform_(0.5, 2.0, generator=generator)
            elif "lora_" in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model


def saved_peft(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder
