"""A GPT-2 with quantised weights in plain numpy: the oracle of the native engine's integer arithmetic.

Read from top to bottom. The integer sums are exact (float64 holds every one of them), and each step of
float32 that the definition names is one numpy float32 operation. LayerNorm, softmax and GELU are float32 in
numpy's order, which need not be the engine's: an activation that lies on the border of two integers may fall
to the other side, so whole models are compared with a tolerance, single matrices to the bit.

T positions, C width, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.config import GPT2Config
from gpt2.quant import integers
from gpt2.quant.model import EMBEDDINGS
from gpt2.weights import Tensor, expected_shapes

Floats = NDArray[np.float32]
Whole = NDArray[np.float64]
"""Whole numbers, in the type whose matrix product is fast and exact."""


def quantise_rows(x: Floats) -> tuple[NDArray[np.uint8], NDArray[np.int32], Floats]:
    """Each row [R, K] as x ~ s * (q - z): q uint8 [R, K], z [R], s float32 [R]. 0 is exact.

    s = max(x, 0) / 255 - min(x, 0) / 255, z = round(-min / s), q = round(x * (1 / s)) + z within 0..255; each
    a float32 operation, ties to even. Of a row of zeros all are 0.
    """
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    s = high / np.float32(255) - low / np.float32(255)
    divisor = np.where(s > 0, s, np.float32(1))
    z = np.minimum(np.rint(-low / divisor), 255)
    q = np.clip(np.rint(x * (np.float32(1) / divisor)[:, None]) + z[:, None], 0, 255)
    return q.astype(np.uint8), z.astype(np.int32), s


def linear(x: Floats, w: Whole, scale: Floats, bias: Floats | None) -> Floats:
    """[R, K] times the integers [K, N] and their scales [N], plus bias [N]."""
    q, z, s = quantise_rows(x)
    sums = (q.astype(np.float64) - z[:, None]) @ w  # exact: |sum| < 255 * 255 * K < 2^53
    y: Floats = sums.astype(np.float32) * (s[:, None] * scale)
    return y if bias is None else y + bias


def layer_norm(x: Floats, gain: Floats, bias: Floats, epsilon: float) -> Floats:
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    y: Floats = (centred / np.sqrt(variance + np.float32(epsilon))) * gain + bias
    return y.astype(np.float32)


def activate(x: Floats, kind: str) -> Floats:
    wide = x.astype(np.float64)
    y = {
        "gelu_new": lambda: 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))),
        "gelu": lambda: 0.5 * wide * (1 + np.vectorize(erf)(wide / np.sqrt(2))),
        "quick_gelu": lambda: wide / (1 + np.exp(-1.702 * wide)),
        "relu": lambda: np.maximum(wide, 0),
        "silu": lambda: wide / (1 + np.exp(-wide)),
        "tanh": lambda: np.tanh(wide),
    }[kind]()
    return np.asarray(y, np.float32)


def as_cached(x: Floats, cache: str) -> Floats:
    """Keys or values [T, H, D] as the cache keeps them; int8 has one scale for each position and head."""
    if cache == "float32":
        return x
    scale = np.abs(x).max(axis=2, keepdims=True) / np.float32(127)
    inverse = np.float32(1) / np.where(scale > 0, scale, np.float32(1))
    return np.asarray(np.rint(x * inverse) * scale, np.float32)


def attention(qkv: Floats, config: GPT2Config, layer: int, cache: str) -> Floats:
    """Causal attention over [T, 3C] -> [T, C]."""
    t, heads = qkv.shape[0], config.n_head
    q, k, v = qkv.reshape(t, 3, heads, config.head_dim).transpose(1, 0, 2, 3)
    k, v = as_cached(k, cache), as_cached(v, cache)
    scores = np.einsum("thd,uhd->htu", q, k)
    if config.scale_attn_weights:
        scores /= np.sqrt(np.float32(config.head_dim))
    if config.scale_attn_by_inverse_layer_idx:
        scores /= np.float32(layer + 1)
    scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return np.einsum("htu,uhd->thd", p, v).reshape(t, -1).astype(np.float32)


def unpacked(weights: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Whole]:
    """The integers of each matrix, by its name."""
    found = {}
    for name, shape in expected_shapes(config).items():
        if name not in weights:
            k, n = shape[::-1] if name in EMBEDDINGS else shape
            found[name] = integers(weights, name, k, n).astype(np.float64)
    return found


def logits(
    weights: Mapping[str, Tensor],
    matrices: Mapping[str, Whole],
    config: GPT2Config,
    ids: Any,
    cache: str = "float32",
) -> Floats:
    """[T] token ids -> [T, V], from the stored tensors of a quantised model and unpacked() of them."""

    def vector(name: str) -> Floats:
        return weights[name].to_float32()

    def scale(name: str) -> Floats:
        return weights[name + ".scale"].array

    def apply(name: str, x: Floats) -> Floats:
        matrix = f"{name}.weight"
        return linear(x, matrices[matrix], scale(matrix), vector(f"{name}.bias"))

    def norm(name: str, x: Floats) -> Floats:
        return layer_norm(x, vector(f"{name}.weight"), vector(f"{name}.bias"), config.layer_norm_epsilon)

    ids = np.asarray(ids)
    x = matrices["wte.weight"].T[ids].astype(np.float32) * scale("wte.weight")[ids, None]
    x = x + vector("wpe.weight")[: ids.size]
    for i in range(config.n_layer):
        h = f"h.{i}."
        qkv = apply(h + "attn.c_attn", norm(h + "ln_1", x))
        x = x + apply(h + "attn.c_proj", attention(qkv, config, i, cache))
        inner = activate(apply(h + "mlp.c_fc", norm(h + "ln_2", x)), config.activation)
        x = x + apply(h + "mlp.c_proj", inner)
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    return linear(norm("ln_f", x), matrices[head], scale(head), None)
