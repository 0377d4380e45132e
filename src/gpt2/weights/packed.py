"""The tensors that a quantised matrix is stored as: names, dtypes, shapes, and which values are possible.

A matrix of K inputs and N outputs (a block's weight [K, N]; the embedding [V, C] has N = V outputs and K = C
inputs) becomes, under its canonical name:

    int8   .q      int8    [N/16, K/4, 16, 4]      N padded to 16, K to 64, with zeros
           .scale  float32 [N]
           .zero   int8    [N]                     only with zero points
    int4   .q4     uint8   [N/16, K/8, 16, 4]      N padded to 16, K to 128; two numbers a byte
           .mult   uint8   [N/16, K/group, 16]
           .offset int8    [N/16, K/group, 16]     only with zero points
           .scale  float32 [N]

docs/formats/quantised.md says how the elements lie. The native engine trusts these shapes and ranges, so
everything is checked here, before it sees a pointer. Knows no rounding (gpt2.quant).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gpt2.errors import WeightsError
from gpt2.weights.scheme import Scheme
from gpt2.weights.tensor import Array, Tensor

LANES = 16
"""Outputs that lie side by side in one 64-byte block."""
INT8_STEP, INT4_STEP = 64, 128
"""Inputs are padded to a multiple of this."""

MAX_INPUTS = 32768
"""The native engine's sums are int32: 255 * 255 * inputs must stay below 2^31."""

SUFFIXES = (".q", ".q4", ".scale", ".zero", ".mult", ".offset")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file, as it must be."""

    dtype: str
    shape: tuple[int, ...]


def round_up(size: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `size`."""
    return -(-size // step) * step


def stored_as(inputs: int, outputs: int, scheme: Scheme) -> dict[str, Stored]:
    """The tensors of one matrix by their suffixes, largest first."""
    n = round_up(outputs, LANES) // LANES
    if scheme.method == "int8":
        parts = {".q": Stored("int8", (n, round_up(inputs, INT8_STEP) // 4, LANES, 4))}
        extra = {".zero": Stored("int8", (outputs,))}
    else:
        k = round_up(inputs, INT4_STEP)
        groups = (n, k // (scheme.group or INT4_STEP), LANES)
        parts = {
            ".q4": Stored("uint8", (n, k // 8, LANES, 4)),
            ".mult": Stored("uint8", groups),
        }
        extra = {".offset": Stored("int8", groups)}
    return parts | ({} if scheme.symmetric else extra) | {".scale": Stored("float32", (outputs,))}


def stored_tensors(
    shapes: Mapping[str, tuple[int, ...]], scheme: Scheme
) -> Iterator[tuple[str, dict[str, Stored]]]:
    """For each tensor of a float model (canonical name -> shape) the tensors that it is stored as.

    Vectors and wpe stay as they are: one entry of their own name, dtype "" for any float. Raises WeightsError
    for a matrix of more than MAX_INPUTS inputs.
    """
    head = Scheme(method="int8", symmetric=scheme.symmetric, equalised=scheme.equalised)
    for name, shape in shapes.items():
        if len(shape) == 1 or name == "wpe.weight":
            yield name, {name: Stored("", shape)}
        elif name in ("wte.weight", "lm_head.weight"):
            parts = stored_as(_bounded(name, shape[1]), shape[0], head)
            yield name, {name + suffix: part for suffix, part in parts.items()}
        else:
            parts = stored_as(_bounded(name, shape[0]), shape[1], scheme)
            yield name, {name + suffix: part for suffix, part in parts.items()}


def _bounded(name: str, inputs: int) -> int:
    if inputs > MAX_INPUTS:
        raise WeightsError(
            f'tensor "{name}" is too wide for integer sums',
            got=f"{inputs:,} inputs",
            expected=f"at most {MAX_INPUTS:,}",
        )
    return inputs


def check_values(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse what no rounding makes, in the small tensors of one matrix (`.q` and `.q4` may hold any bits).

    Raises WeightsError: a scale that is not finite and positive, a multiplier outside 1..15, an offset with
    which mult * q + offset leaves [-128, 127] for some q in 0..15.
    """
    scale = tensors[name + ".scale"]
    _refuse(scale, ~(np.isfinite(scale.array) & (scale.array > 0)), "a finite number above 0")
    if (mult := tensors.get(name + ".mult")) is None:
        return
    _refuse(mult, (mult.array < 1) | (mult.array > 15), "1 to 15")
    if (offset := tensors.get(name + ".offset")) is not None:
        top = offset.array.astype(np.int16) + 15 * mult.array.astype(np.int16)
        _refuse(offset, top > 127, "at most 127 - 15 * mult, so that the weight stays within a byte")


def _refuse(tensor: Tensor, bad: Array, expected: str) -> None:
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        raise WeightsError(
            f'tensor "{tensor.name}" has a value that cannot be',
            where=tensor.file or None,
            got=f"{tensor.array[at]} at index {[int(i) for i in at]}",
            expected=expected,
            likely="the file is damaged, or another program wrote it",
        )
