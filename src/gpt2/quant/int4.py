"""Round a matrix to int4 that is int8, written shorter: 4 bits a weight, an integer multiplier a group.

weight[t][j] = scale[j] * w8[t][j],  w8 = mult[g][j] * q[t][j] + offset[g][j],  q in 0..15, mult in 1..15,
w8 in -128..127; the group g is `group` consecutive inputs of one output. Symmetric: offset = -8 * mult. With
zero points the offset is free, within what keeps w8 a byte for all q.

The scale of an output is 1/15 of its coarsest group's step; the other groups take the multiples of it that
suit them. A group's multiplier (and offset) is the one of a few candidates with the smallest squared error:
cutting off a group's extremes a little costs less than coarser steps for all the rest of it. Knows no model
and no layout in memory (packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2.quant.int8 import TINY, Floats
from gpt2.weights.packed import INT4_STEP, round_up

CUTS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""The candidates: a group's step as a share of the step that reaches its extremes."""
COLUMNS = 64
"""Outputs rounded at a time: [3072, 64] float32 are 768 kB, which stays in a core's cache."""


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """A matrix [K, N] of K inputs and N outputs. Kp = K padded to a multiple of 128, G = Kp / group."""

    q: NDArray[np.uint8]
    """[Kp, N], 0..15; rows from K on stand for 0."""
    mult: NDArray[np.uint8]
    """[G, N], 1..15"""
    offset: NDArray[np.int8] | None
    """[G, N], or None where it is -8 * mult everywhere (symmetric)."""
    scale: Floats
    """[N], each above 0."""
    k: int
    """K"""

    def to_int8(self) -> NDArray[np.int8]:
        """w8 [K, N]: the integers that are multiplied with the activations."""
        group = self.q.shape[0] // self.mult.shape[0]
        mult = self.mult.astype(np.int16)
        offset = -8 * mult if self.offset is None else self.offset.astype(np.int16)
        w8 = np.repeat(mult, group, axis=0) * self.q + np.repeat(offset, group, axis=0)
        return w8[: self.k].astype(np.int8)

    def to_float32(self) -> Floats:
        """The weights [K, N] that the integers stand for."""
        return self.to_int8().astype(np.float32) * self.scale


def round_int4(weights: Floats, *, group: int, symmetric: bool = True) -> Int4Matrix:
    """Round [K, N] float32 (any strides, all finite). Raises nothing: the caller has checked the values."""
    k, n = weights.shape
    padded = round_up(k, INT4_STEP)
    q, scale = np.empty((padded, n), np.uint8), np.empty(n, np.float32)
    mult = np.empty((padded // group, n), np.uint8)
    offset = None if symmetric else np.empty((padded // group, n), np.int8)
    for j in range(0, n, COLUMNS):
        columns = slice(j, min(j + COLUMNS, n))
        part = np.zeros((padded, columns.stop - j), np.float32)
        part[:k] = weights[:, columns]
        groups = part.reshape(padded // group, group, -1)
        scale[columns] = _scale(groups, symmetric)
        groups /= scale[columns]  # from here on in units of w8
        m, o = _choose(groups, symmetric, k // group)
        mult[:, columns] = m
        if offset is not None:
            offset[:, columns] = o
        q[:, columns] = _levels(groups, m, o).reshape(padded, -1)
    return Int4Matrix(q, mult, offset, scale, k)


def _extremes(groups: Floats) -> tuple[Floats, Floats]:
    """The least and the largest of each group [G, group, N] -> [G, N], 0 included."""
    return np.minimum(groups.min(axis=1), 0), np.maximum(groups.max(axis=1), 0)


def _full_step(low: Floats, high: Floats, symmetric: bool) -> Floats:
    """The step with which 16 levels reach the extremes."""
    step = np.maximum(-low, high) / 7.5 if symmetric else high / 15 - low / 15
    return np.asarray(step, np.float32)


def _scale(groups: Floats, symmetric: bool) -> Floats:
    """[N]: the coarsest group gets the multiplier 15, and no weight needs more than a byte."""
    low, high = _extremes(groups)
    scale = _full_step(low, high, symmetric).max(axis=0) / np.float32(15)
    if not symmetric:
        scale = np.maximum(scale, np.maximum(high.max(axis=0), -low.min(axis=0)) / np.float32(127))
    at_least: Floats = np.maximum(scale, np.float32(TINY))
    return at_least


def _choose(groups: Floats, symmetric: bool, whole: int) -> tuple[Floats, Floats]:
    """The multiplier and the offset [G, N] of each group, whole numbers, with the least squared error.

    Groups from `whole` on have padding, which stands for 0: their levels include 0.
    """
    low, high = _extremes(groups)
    full = _full_step(low, high, symmetric)
    least = np.full(full.shape, np.inf, np.float32)
    mult, offset = np.ones_like(full), np.full_like(full, -8)
    for cut in CUTS:
        m = np.clip(np.rint(full * np.float32(cut)), 1, 15)
        o = -8 * m if symmetric else _offset(low, high, m, whole)
        error = _levels(groups, m, o)
        error *= m[:, None]
        error += o[:, None]
        error -= groups
        total = np.einsum("gkn,gkn->gn", error, error)
        better = total < least
        least = np.where(better, total, least)
        mult, offset = np.where(better, m, mult), np.where(better, o, offset)
    return mult, offset


def _offset(low: Floats, high: Floats, mult: Floats, whole: int) -> Floats:
    """The lowest level [G, N] that puts the 16 levels in the middle of the range, within a byte."""
    lowest = (low + high) / 2 - np.float32(7.5) * mult
    offset: Floats = np.clip(np.rint(lowest), -128, 127 - 15 * mult)
    # -z * mult, which makes level z the 0 that padding needs; both bounds leave a z for every mult in 1..15.
    z = np.clip(np.rint(-lowest / mult), np.maximum(np.ceil(15 - 127 / mult), 0), np.floor(128 / mult))
    offset[whole:] = (-np.minimum(z, 15) * mult)[whole:]
    return offset


def _levels(groups: Floats, mult: Floats, offset: Floats) -> Floats:
    """The nearest level 0..15 of each weight [G, group, N]."""
    levels: Floats = groups - offset[:, None]
    levels /= mult[:, None]
    np.rint(levels, out=levels)
    np.clip(levels, 0, 15, out=levels)
    return levels
