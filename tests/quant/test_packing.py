"""The order of the numbers in memory and file: what docs/formats/quantised.md says, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2.quant.packing import (
    pack_groups,
    pack_int4,
    pack_int8,
    unpack_groups,
    unpack_int4,
    unpack_int8,
)

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32 - 1))


def numbers(low: int, high: int, shape: tuple[int, int], seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(low, high, shape)


@given(SIZES)
def test_int8(case: tuple[int, int, int]) -> None:
    k, n, seed = case
    q = numbers(-128, 128, (k, n), seed).astype(np.int8)
    packed = pack_int8(q)
    assert packed.shape == (-(-n // 16), -(-k // 64) * 16, 16, 4)
    assert packed.flags.c_contiguous
    t, j = np.indices((k, n))
    assert np.array_equal(packed[j // 16, t // 4, j % 16, t % 4], q)
    assert np.array_equal(unpack_int8(packed, k, n), q)
    assert np.count_nonzero(packed) == np.count_nonzero(q)  # the padding is zeros


@given(SIZES)
def test_int4(case: tuple[int, int, int]) -> None:
    k, n, seed = case
    q = numbers(0, 16, (k, n), seed).astype(np.uint8)
    packed = pack_int4(q)
    assert packed.shape == (-(-n // 16), -(-k // 128) * 16, 16, 4)
    t, j = np.indices((k, n))
    byte = packed[j // 16, t // 8, j % 16, t % 4]
    assert np.array_equal(np.where(t % 8 < 4, byte & 15, byte >> 4), q)
    assert np.array_equal(unpack_int4(packed, k, n), q)
    whole = unpack_int4(packed, -(-k // 128) * 128, -(-n // 16) * 16)
    assert (whole[k:] == 8).all()
    assert (whole[:, n:] == 8).all()


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_groups(groups: int, n: int, seed: int) -> None:
    values = numbers(1, 16, (groups, n), seed).astype(np.uint8)
    packed = pack_groups(values, 7)
    assert packed.shape == (-(-n // 16), groups, 16)
    g, j = np.indices((groups, n))
    assert np.array_equal(packed[j // 16, g, j % 16], values)
    assert np.array_equal(unpack_groups(packed, n), values)
    assert (unpack_groups(packed, -(-n // 16) * 16)[:, n:] == 7).all()
