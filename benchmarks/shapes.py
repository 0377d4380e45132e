"""What several benchmarks measure: the released shapes by their size, and a model of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpt2.config import KNOWN_SIZES
from gpt2.weights import expected_shapes, save_safetensors

SHAPES = {"124M": "gpt2", "355M": "gpt2-medium", "774M": "gpt2-large", "1.5B": "gpt2-xl"}
"""The names in KNOWN_SIZES."""


def random_model(folder: Path, shape: str = "124M") -> Path:
    """Write a model directory without a tokenizer: weights normal with deviation 0.05, from a fixed seed."""
    config = KNOWN_SIZES[SHAPES[shape]]
    config.save(folder)
    generator = np.random.default_rng(1)
    arrays = {
        name: generator.standard_normal(size, dtype=np.float32) * np.float32(0.05)
        for name, size in expected_shapes(config).items()
    }
    save_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    return folder
