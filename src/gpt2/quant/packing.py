"""The order in which quantised numbers lie in memory and in the file: one order for every instruction set.

A 64-byte block holds 16 outputs side by side, each with 4 consecutive inputs: what one dot-product
instruction of four bytes a lane reads. Blocks of the same 16 outputs follow each other by input. int4 puts
the next 4 inputs into the high halves of the same bytes. docs/formats/quantised.md is the specification;
this file is its writer. Matrices here are [K, N]: inputs by outputs. Knows no rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpt2.weights.packed import INT4_STEP, INT8_STEP, LANES, round_up
from gpt2.weights.tensor import Array

Int8s = NDArray[np.int8]
UInt8s = NDArray[np.uint8]


def pack_int8(q: Int8s) -> Int8s:
    """[K, N] -> [N/16, K/4, 16, 4], padded with zeros to multiples of 16 outputs and 64 inputs."""
    k, n = q.shape
    rows, columns = round_up(k, INT8_STEP), round_up(n, LANES)
    return _interleave(_padded(q, rows, columns, 0).view(np.uint8)).view(np.int8)


def unpack_int8(packed: Int8s, k: int, n: int) -> Int8s:
    """The matrix [K, N] that pack_int8 packed."""
    return np.ascontiguousarray(_spread(packed)[:k, :n])


def pack_int4(q: UInt8s) -> UInt8s:
    """[K, N] of 0..15 -> [N/16, K/8, 16, 4], padded with 8 to multiples of 16 outputs and 128 inputs.

    Byte b of an output in a block of 8 inputs holds input b in its low half and input 4 + b in its high half.
    """
    k, n = q.shape
    full = _padded(q, round_up(k, INT4_STEP), round_up(n, LANES), 8)
    eights = full.reshape(-1, 2, 4, full.shape[1])
    return _interleave((eights[:, 0] | eights[:, 1] << 4).reshape(-1, full.shape[1]))


def unpack_int4(packed: UInt8s, k: int, n: int) -> UInt8s:
    """The matrix [K, N] of 0..15 that pack_int4 packed."""
    pairs = _spread(packed).reshape(-1, 4, packed.shape[0] * LANES)
    return np.ascontiguousarray(
        np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1, pairs.shape[2])[:k, :n]
    )


def pack_groups(values: Array, fill: int) -> Array:
    """One number for each group and output, [K/group, N] -> [N/16, K/group, 16], padded with `fill`.

    The caller has as many groups as the padded K has.
    """
    groups, n = values.shape
    full = _padded(values, groups, round_up(n, LANES), fill)
    return np.ascontiguousarray(full.reshape(groups, -1, LANES).transpose(1, 0, 2))


def unpack_groups(packed: Array, n: int) -> Array:
    """The [K/group, N] that pack_groups packed."""
    return np.ascontiguousarray(packed.transpose(1, 0, 2).reshape(packed.shape[1], -1)[:, :n])


def _padded(values: Array, rows: int, columns: int, fill: int) -> Array:
    if values.shape == (rows, columns):
        return np.ascontiguousarray(values)
    full = np.full((rows, columns), fill, values.dtype)
    full[: values.shape[0], : values.shape[1]] = values
    return full


def _interleave(rows: UInt8s) -> UInt8s:
    """[4 R, N] bytes -> [N/16, R, 16, 4]. Four bytes are moved as one number, which is several times
    faster."""
    _, n = rows.shape
    four = np.empty((rows.shape[0] // 4, n, 4), np.uint8)
    for b in range(4):
        four[:, :, b] = rows[b::4]
    words = four.view(np.uint32).reshape(-1, n // LANES, LANES)
    return np.ascontiguousarray(words.transpose(1, 0, 2)).view(np.uint8).reshape(n // LANES, -1, LANES, 4)


def _spread(packed: Array) -> Array:
    """[N/16, R, 16, 4] -> [4 R, N]."""
    blocks, r, lanes, four = packed.shape
    return packed.transpose(1, 3, 0, 2).reshape(r * four, blocks * lanes)
