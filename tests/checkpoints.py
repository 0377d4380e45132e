"""Randomly initialised checkpoints as transformers makes them, and the error that float32 arithmetic may
make on them.

The weights are wide enough (0.2 for biases, a larger init for matrices) that logits differ by far more than
rounding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import GPT2Config


def random_gpt2(seed: int = 0, **config: Any) -> Any:
    """A transformers GPT2LMHeadModel in float32, eval mode, with every parameter random (biases and gains,
    too)."""
    import torch
    import transformers

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for models as small as these, a second thread only waits
    defaults = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.1,
        "attn_implementation": "eager",
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**defaults, **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def exact_outputs(model: Any, ids: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(logits [T, V], hidden states [L + 1, T, C]) of the same model computed in float64.

    A float32 model is copied; one that is in float64 already is used as it is (for what fits memory once).
    """
    import copy

    import torch

    double = model if model.dtype == torch.float64 else copy.deepcopy(model).double()
    for module in double.modules():
        if hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False  # the same function; that code path insists on float32
    with torch.no_grad():
        out = double(torch.as_tensor(ids[None].astype(np.int64)), output_hidden_states=True)
    return out.logits[0].numpy(), np.stack([h[0].numpy() for h in out.hidden_states])


def logit_error_bound(config: GPT2Config, positions: int, scale: float, narrow: bool = False) -> float:
    """How far float32 logits may be from the exact ones; `scale` is the largest |logit|.

    Each sum of k products is off by about sqrt(k) u of its terms' size (Higham & Mary 2019, probabilistic
    bound, u = 2^-24). A block has four such sums, of lengths C, T, C and I, each feeding a residual stream
    that LayerNorm keeps at scale 1, and the errors of L blocks add. Factor 2 for the confidence. Never more
    than the 1e-4 x scale that is promised; that alone holds where LayerNorm has so few channels that it may
    divide by almost nothing.

    `narrow`: activations are rounded to bfloat16 before each of the four products of a block and the head
    (bfloat16 weights on AVX-512 BF16 and AMX), each of which is then off by about 2^-8 of its terms' size.
    """
    if narrow:
        return 2 * 2.0**-8 * (4 * config.n_layer + 1) * scale
    if config.n_embd < 16:
        return 1e-4 * scale
    u = 2.0**-24
    c, inner = config.n_embd, config.inner
    per_block = 2 * math.sqrt(c) + math.sqrt(positions) + math.sqrt(inner)
    return min(1e-4, 2 * u * (config.n_layer * per_block + math.sqrt(c))) * scale


def assert_close(
    got: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], bound: float, axes: str, note: str = ""
) -> None:
    """Fails with the place, both values and the bound."""
    assert got.shape == exact.shape, f"shapes {got.shape} and {exact.shape} {note}"
    difference = np.abs(got - exact)
    at = np.unravel_index(int(difference.argmax()), difference.shape)
    place = " ".join(f"{axis}={i}" for axis, i in zip(axes, at, strict=True))
    assert difference[at] <= bound, (
        f"worst at {place}: got {got[at]:.9g}, exact {exact[at]:.9g}, |difference| {difference[at]:.3g} > "
        f"bound {bound:.3g} {note}"
    )
