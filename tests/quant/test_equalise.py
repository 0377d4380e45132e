"""Equalisation changes no bit of what a block computes, and gives rounding back what outliers took."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2.quant import equalised, round_int8
from gpt2.quant.equalise import factors

Floats = NDArray[np.float32]


def block(seed: int, c: int = 24) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    shapes = {
        "ln_1.weight": (c,), "ln_1.bias": (c,),
        "attn.c_attn.weight": (c, 3 * c), "attn.c_attn.bias": (3 * c,),
        "attn.c_proj.weight": (c, c), "attn.c_proj.bias": (c,), "ln_2.weight": (c,), "ln_2.bias": (c,),
        "mlp.c_fc.weight": (c, 2 * c), "mlp.c_fc.bias": (2 * c,), "mlp.c_proj.weight": (2 * c, c),
        "mlp.c_proj.bias": (c,),
    }  # fmt: skip
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def spiked(original: dict[str, Floats], seed: int) -> dict[str, Floats]:
    """The same function with some channels 20 to 50 times larger before c_attn, c_fc and attn.c_proj."""
    rng, out = np.random.default_rng(seed), {name: array.copy() for name, array in original.items()}
    c = out["ln_1.weight"].size
    for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
        at, by = rng.choice(c, 3, replace=False), rng.uniform(20, 50, 3).astype(np.float32)
        out[f"{norm}.weight"][at] *= by
        out[f"{norm}.bias"][at] *= by
        out[f"{matrix}.weight"][at] /= by[:, None]
    at, by = rng.choice(c, 3, replace=False), rng.uniform(20, 50, 3).astype(np.float32)
    out["attn.c_attn.weight"][:, 2 * c + at] *= by
    out["attn.c_attn.bias"][2 * c + at] *= by
    out["attn.c_proj.weight"][at] /= by[:, None]
    return out


def through(b: dict[str, Floats], x: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """What enters and what leaves the matrices that are fed by a LayerNorm or by values; sums in one
    order."""
    c = b["ln_1.weight"].size
    entering = {
        "attn.c_attn": x * b["ln_1.weight"] + b["ln_1.bias"],
        "mlp.c_fc": x * b["ln_2.weight"] + b["ln_2.bias"],
    }
    leaving = {}
    for name, rows in entering.items():
        leaving[name] = np.einsum("rk,kn->rn", rows, b[f"{name}.weight"]) + b[f"{name}.bias"]
    values = leaving["attn.c_attn"][:, 2 * c :]
    entering["attn.c_proj"] = values
    leaving["attn.c_proj"] = np.einsum("rk,kn->rn", values, b["attn.c_proj.weight"])
    leaving["attn.c_attn"] = leaving["attn.c_attn"][:, : 2 * c]
    return entering, leaving


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_function_keeps_its_bits(seed: int, outliers: bool) -> None:
    original = block(seed)
    if outliers:
        original = spiked(original, seed)
    before = {name: array.copy() for name, array in original.items()}
    x = np.random.default_rng(seed + 1).standard_normal((5, 24)).astype(np.float32)
    changed = equalised(original)
    assert changed.keys() == original.keys()
    assert all(np.array_equal(original[name], before[name]) for name in before)
    expected, got = through(original, x)[1], through(changed, x)[1]
    for name, rows in expected.items():
        assert np.array_equal(rows, got[name]), name


def rounding_loss(b: dict[str, Floats], x: Floats) -> float:
    """Mean squared error of int8 weights and per-row uint8 activations, relative to what leaves."""
    entering, _ = through(b, x)
    total = 0.0
    for name, rows in entering.items():
        low, high = np.minimum(rows.min(1), 0)[:, None], np.maximum(rows.max(1), 0)[:, None]
        step = (high - low) / 255
        coarse = step * (np.rint(rows / step) - np.rint(low / step)) + step * np.rint(low / step)
        exact = rows @ b[f"{name}.weight"]
        got = coarse @ round_int8(b[f"{name}.weight"]).to_float32()
        total += float(np.square(got - exact).mean() / np.square(exact).mean())
    return total


@pytest.mark.parametrize("seed", range(5))
def test_outliers_cost_nothing_after_it(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((200, 24)).astype(np.float32)
    plain, outliers = block(seed), spiked(block(seed), seed)
    normal = rounding_loss(plain, x)
    assert rounding_loss(outliers, x) > 20 * normal
    assert rounding_loss(equalised(outliers), x) < 2 * normal


def test_channels_that_nobody_uses_stay() -> None:
    weight = np.ones((4, 2), np.float32)
    weight[1] = 0
    s = factors(np.array([1.0, 1.0, 0.0, 16.0]), weight)
    assert s[1] == s[2] == 1
    assert s[3] / s[0] == 4  # the square root of 16
    assert factors(np.zeros(4), weight).tolist() == [1] * 4
