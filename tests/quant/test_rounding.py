"""Rounding one matrix: to the nearest of the values that the form allows, whatever the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2.quant import Int4Matrix, round_int4, round_int8
from gpt2.weights.packed import INT4_STEP, round_up
from gpt2.weights.scheme import GROUPS

Floats = NDArray[np.float32]
HALF = 0.5 + 1e-4  # of a step: the nearest, up to the rounding of the float32 division


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Small and odd shapes; columns shifted, flat, tiny, huge; rows with outliers."""
    k, n = draw(st.integers(1, 150)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = rng.standard_normal((k, n)) + rng.choice([0, 0, 3, -5], n)
    w *= rng.choice([1.0, 1.0, 1e-30, 1e30, 0.0], n)
    w[rng.integers(k)] *= rng.choice([1.0, 50.0, 0.0])
    return w.astype(np.float32)


@given(matrices(), st.booleans())
def test_int8_is_within_half_a_step(w: Floats, symmetric: bool) -> None:
    before = w.copy()
    rounded = round_int8(w, symmetric=symmetric)
    assert np.array_equal(w, before)
    assert (rounded.q.shape, rounded.scale.shape) == (w.shape, (w.shape[1],))
    assert np.isfinite(rounded.scale).all()
    assert (rounded.scale > 0).all()
    assert (rounded.zero is None) == symmetric
    if symmetric:
        assert rounded.q.min() >= -127
    error = np.abs(rounded.to_float32().astype(np.float64) - w) / rounded.scale
    # With zero points the zero itself is rounded, which may push an extreme by another half step.
    assert error.max() <= (HALF if symmetric else 1 + 1e-4)
    assert not rounded.to_float32()[:, ~w.any(axis=0)].any()


def check_int4(w: Floats, rounded: Int4Matrix, group: int, symmetric: bool) -> None:
    k, n = w.shape
    padded = round_up(k, INT4_STEP)
    assert rounded.q.shape == (padded, n)
    assert rounded.mult.shape == (padded // group, n)
    assert rounded.q.max() <= 15
    assert rounded.mult.min() >= 1
    assert rounded.mult.max() <= 15
    assert np.isfinite(rounded.scale).all()
    assert (rounded.scale > 0).all()
    assert (rounded.offset is None) == symmetric
    mult = rounded.mult.astype(int)
    low = -8 * mult if rounded.offset is None else rounded.offset.astype(int)
    assert low.min() >= -128
    assert (low + 15 * mult).max() <= 127
    whole = np.repeat(mult, group, 0) * rounded.q + np.repeat(low, group, 0)
    assert not whole[k:].any()  # padding is 0 whatever its group's multiplier
    assert np.array_equal(whole[:k], rounded.to_int8())
    # Each weight takes the nearest of its group's 16 levels.
    levels = low[..., None] + mult[..., None] * np.arange(16)  # [G, N, 16]
    exact = w.astype(np.float64) / rounded.scale
    nearest = np.abs(exact[..., None] - np.repeat(levels, group, 0)[:k]).min(-1)
    assert np.allclose(np.abs(exact - whole[:k]), nearest, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("group", GROUPS)
@given(matrices(), st.booleans())
def test_int4_takes_the_nearest_level(group: int, w: Floats, symmetric: bool) -> None:
    before = w.copy()
    check_int4(w, round_int4(w, group=group, symmetric=symmetric), group, symmetric)
    assert np.array_equal(w, before)


@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_of_extremes(symmetric: bool) -> None:
    """All weights of one sign need levels far from 0, which must still be bytes."""
    for value in (0.0, 1.0, -1.0, 3e38, 1e-45):
        w = np.full((130, 3), value, np.float32)
        rounded = round_int4(w, group=32, symmetric=symmetric)
        check_int4(w, rounded, 32, symmetric)
        assert np.allclose(rounded.to_float32(), w, rtol=0.1, atol=1e-37)


def test_finer_groups_and_zero_points_lose_less() -> None:
    w = np.random.default_rng(0).standard_t(4, (512, 64)).astype(np.float32)

    def loss(group: int, symmetric: bool) -> float:
        return float(np.square(round_int4(w, group=group, symmetric=symmetric).to_float32() - w).mean())

    assert loss(32, True) < loss(64, True) < loss(128, True)
    for group in GROUPS:
        assert loss(group, False) < loss(group, True)
    # A multiplier of its own for each group costs 4 bits and is worth it.
    alone = round_int4(w, group=32)
    coarse = np.abs(w).max(0) / 7.5
    plain = coarse * np.clip(np.rint(w / coarse), -8, 7)
    assert np.square(alone.to_float32() - w).mean() < 0.6 * np.square(plain - w).mean()
