"""A GPT2 from a model directory, and its tensors by their canonical names.

Needs PyTorch. Knows the readers (gpt2.weights); who writes directories is gpt2.cards.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest
from gpt2.model.gpt2 import GPT2
from gpt2.weights import Scheme, Tensor, Weights, infer_config, open_weights
from gpt2.weights.hub import resolve

_LARGE = 1 << 20  # bytes: giving pages of a mapped file back is a walk over the map


def load_model(model: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float32) -> GPT2:
    """A GPT2 in eval mode with the weights of a model directory, a file or a hub id; None is the bundled
    model.

    The parameters are copies in `dtype` (float32, bfloat16, float16 or float64). Raises what gpt2.load()
    raises; InvalidRequest for a quantised model, which has no floats to train.
    """
    path = Path(resolve(os.fspath(model) if model is not None else None))
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        config = GPT2Config.from_json(folder / "config.json")
    else:
        config = infer_config(open_weights(path)).config
    if Scheme.of(config) is not None:
        raise InvalidRequest(
            "the model is quantised",
            where=str(path),
            expected="float32, float16 or bfloat16 weights",
            hint="load the model that it was made from; its card names it",
        )
    out = GPT2(config, fresh=False)
    copy_weights(out, open_weights(path, config))
    out.to(dtype).eval()
    return out


@torch.no_grad()
def copy_weights(model: GPT2, weights: Weights) -> None:
    """Copy tensors of canonical names and shapes (open_weights has checked them) into a model."""
    for name, parameter in model.named_parameters():
        tensor = weights[name]
        parameter.copy_(_torch(tensor))
        if tensor.nbytes >= _LARGE:  # so that the file is not in memory whole, beside the copy
            for file in weights.mapped_files:
                file.release()


def _torch(tensor: Tensor) -> torch.Tensor:
    """The tensor's numbers, without a wider copy than its file has."""
    array: NDArray[Any] = np.array(tensor.array, order="C")  # a copy: PyTorch may not write to a mapped file
    if tensor.dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
