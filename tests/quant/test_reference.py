"""The oracle itself: exact where it says so, and close to the float model that it stands for."""

from __future__ import annotations

import numpy as np
import pytest

import gpt2
from gpt2.config import GPT2Config
from gpt2.quant import quantise
from gpt2.weights import Scheme, open_weights
from gpt2.weights.hub import bundled
from quant import reference


def test_rows() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((60, 33)) * 10.0 ** rng.integers(-20, 20, (60, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.abs(x[1])
    x[2] = -np.abs(x[2])
    q, z, s = reference.quantise_rows(x)
    back = s[:, None] * (q - z[:, None])
    # Half a step, and another half at the ends where the zero point was rounded away from them.
    assert (np.abs(back - x) <= s[:, None] * 1.001).all()
    inside = (q > 0) & (q < 255)
    assert (np.abs(back - x) <= s[:, None] * 0.501)[inside].all()
    zeros = np.zeros((1, 33), np.float32)
    assert not (reference.quantise_rows(zeros)[0] - reference.quantise_rows(zeros)[1]).any()


def test_the_sums_are_those_of_whole_numbers() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 300)).astype(np.float32)
    w = rng.integers(-255, 256, (300, 7)).astype(np.int16)
    scale = rng.random(7, np.float32)
    q, z, s = reference.quantise_rows(x)
    exact = (q.astype(np.int64) - z[:, None].astype(np.int64)) @ w.astype(np.int64)
    expected = exact.astype(np.float32) * (s[:, None] * scale) + np.float32(0.5)
    assert np.array_equal(reference.linear(x, w, scale, np.full(7, 0.5, np.float32)), expected)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [(Scheme(method="int8"), 0.01), (Scheme(method="int8", symmetric=False), 0.01),
     (Scheme(method="int4"), 0.2), (Scheme(method="int4", symmetric=False), 0.2)],
    ids=str,
)  # fmt: skip
def test_close_to_the_bundled_model(scheme: Scheme, bits: float) -> None:
    """The mean divergence from the float model's distributions, along a text that it wrote itself."""
    config = GPT2Config.from_json(bundled())
    source = gpt2.load()
    ids = [6143, *source.generate([6143], max_new_tokens=120, seed=1, ignore_eos=True).tokens]  # type: ignore[union-attr]
    tensors = {t.name: t for t in quantise(open_weights(bundled(), config), config, scheme)}
    matrices = reference.unpacked(tensors, config)
    p = log_softmax(source.logits(ids))
    for cache in ("float32", "int8"):
        q = log_softmax(reference.logits(tensors, matrices, config, ids, cache))
        divergence = (np.exp(p) * (p - q)).sum(axis=1).mean() / np.log(2)
        assert 0 < divergence < bits


def log_softmax(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
