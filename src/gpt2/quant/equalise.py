"""Move magnitude between channels before rounding, without changing what the model computes.

An activation row shares one scale among its channels, so one channel that is 50 times larger than the rest
leaves those with 8 - log2(50) bits. GPT-2 has such channels. Dividing channel t of an activation by s[t] and
multiplying row t of the next matrix by s[t] changes nothing (SmoothQuant, arXiv:2211.10438); here the
division is folded into what makes the activation:

    ln_1 -> attn.c_attn      the LayerNorm's gain and bias
    ln_2 -> mlp.c_fc         the LayerNorm's gain and bias
    attn.c_attn (values) -> attn.c_proj      the columns and biases that make the values

Every factor is a power of two, so the equalised float model gives the same bits as the original. No text is
needed: a normalised activation has size 1, so |gain| and |bias| tell how large each channel gets. Works on
one block's arrays; knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpt2.quant.int8 import Floats

# How many standard deviations of a channel count as its size.
_DEVIATIONS = 3.0
# 2^12 is far beyond any outlier seen, and keeps every folded float32 away from overflow and underflow.
_MAX_EXPONENT = 12.0


def equalised(block: Mapping[str, Floats]) -> dict[str, Floats]:
    """The tensors of one block (names without "h.{i}.", all float32), rescaled; the originals are kept as
    they are."""
    out = dict(block)
    for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
        gain, bias = block[f"{norm}.weight"], block[f"{norm}.bias"]
        weight = block[f"{matrix}.weight"]
        s = factors(np.hypot(_DEVIATIONS * gain.astype(np.float64), bias), weight)
        out[f"{norm}.weight"], out[f"{norm}.bias"] = gain / s, bias / s
        out[f"{matrix}.weight"] = weight * s[:, None]
    _equalise_values(out)
    return out


def _equalise_values(block: dict[str, Floats]) -> None:
    """Between the values and attn.c_proj: attention averages values, so its result is scaled with them."""
    weight, bias = block["attn.c_attn.weight"], block["attn.c_attn.bias"].copy()
    c = weight.shape[0]
    values = weight[:, 2 * c :]
    # Sums over the inputs in numpy's own order, not a BLAS's: the same factors on every machine.
    mean = (block["ln_1.bias"].astype(np.float64)[:, None] * values).sum(axis=0) + bias[2 * c :]
    spread = np.square(block["ln_1.weight"].astype(np.float64)[:, None] * values).sum(axis=0)
    s = factors(np.abs(mean) + _DEVIATIONS * np.sqrt(spread), block["attn.c_proj.weight"])
    values /= s  # in place: equalised() has just made this array
    bias[2 * c :] /= s
    block["attn.c_attn.bias"] = bias
    block["attn.c_proj.weight"] = block["attn.c_proj.weight"] * s[:, None]


def factors(size: NDArray[np.float64], weight: Floats) -> Floats:
    """s [K]: powers of two near sqrt(size[t] / max |weight[t]|), their geometric mean near 1.

    `size` [K]: how large each channel of the activation gets; `weight` [K, N]: the matrix that it feeds. 1
    for channels that either side does not use.
    """
    row = np.maximum(weight.max(axis=1), -weight.min(axis=1)).astype(np.float64)
    used = (size > 0) & (row > 0)
    if not used.any():
        return np.ones(size.shape, np.float32)
    ratio = np.log2(np.where(used, size, 1.0)) - np.log2(np.where(used, row, 1.0))
    exponent = np.rint((ratio - ratio[used].mean()) / 2).clip(-_MAX_EXPONENT, _MAX_EXPONENT)
    return np.exp2(np.where(used, exponent, 0.0)).astype(np.float32)
