"""Round a matrix to int8: one scale for each output, to the nearest.

weight[t][j] = scale[j] * (q[t][j] - zero[j]). Symmetric: zero = 0 and q in -127..127, the largest magnitude
of an output at +-127. With zero points: q in -128..127, and the range from the smallest to the largest weight
(0 included) takes all 256 steps. Rounding is to the nearest, ties to even; the error of a weight is at most
half a scale. Knows no model and no layout in memory (packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TINY = float(np.finfo(np.float32).tiny)
"""The smallest scale: a column of zeros, or of almost nothing, still has a scale above 0."""

COLUMNS = 256
"""Outputs rounded at a time: [768, 256] float32 are 768 kB, which stays in a core's cache."""


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix [K, N] of K inputs and N outputs."""

    q: NDArray[np.int8]
    """[K, N]"""
    scale: Floats
    """[N], each above 0."""
    zero: NDArray[np.int8] | None
    """[N], or None where it is 0 everywhere (symmetric)."""

    def to_float32(self) -> Floats:
        """The weights [K, N] that the integers stand for."""
        centred = self.q if self.zero is None else self.q.astype(np.int16) - self.zero
        return centred.astype(np.float32) * self.scale


def round_int8(weights: Floats, *, symmetric: bool = True) -> Int8Matrix:
    """Round [K, N] float32 (any strides, all finite). Raises nothing: the caller has checked the values."""
    k, n = weights.shape
    q, scale = np.empty((k, n), np.int8), np.empty(n, np.float32)
    zero = None if symmetric else np.empty(n, np.int8)
    for j in range(0, n, COLUMNS):
        part = np.array(weights[:, j : j + COLUMNS], dtype=np.float32, order="C")
        low = np.minimum(part.min(axis=0, initial=0.0), 0.0)
        high = np.maximum(part.max(axis=0, initial=0.0), 0.0)
        span = np.maximum(-low, high) / np.float32(127) if symmetric else (high / 255 - low / 255)
        step = np.maximum(span.astype(np.float32), TINY)
        part /= step
        np.rint(part, out=part)
        if zero is not None:
            at = np.clip(np.rint(-128 - low / step), -128, 127)
            part += at
            zero[j : j + COLUMNS] = at
        low_q = -127 if symmetric else -128
        np.clip(part, low_q, 127, out=part)
        q[:, j : j + COLUMNS] = part
        scale[j : j + COLUMNS] = step
    return Int8Matrix(q, scale, zero)
