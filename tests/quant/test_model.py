"""A whole model: which tensors come out, that they stand for the model that went in, and at what cost."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from gpt2.config import GPT2Config
from gpt2.errors import WeightsError
from gpt2.quant import Scheme, dequantise, quantise
from gpt2.weights import Tensor, expected_shapes
from gpt2.weights.packed import stored_tensors

SMALL = GPT2Config(vocab_size=101, n_positions=9, n_embd=24, n_layer=2, n_head=2, n_inner=40)
SCHEMES = [
    Scheme(method=method, group=group, symmetric=symmetric, equalised=equal)
    for method, group in (("int8", None), ("int4", 32), ("int4", 64), ("int4", 128))
    for symmetric in (True, False)
    for equal in (True, False)
]


def float_model(config: GPT2Config, dtype: str = "float32", seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in expected_shapes(config).items():
        array = rng.standard_normal(shape, np.float32)
        if dtype == "bfloat16":
            array = (array.view(np.uint32) >> 16).astype(np.uint16)
        out[name] = Tensor(name, dtype, shape, array.astype("float16") if dtype == "float16" else array)
    return out


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_the_tensors_are_those_of_the_table(scheme: Scheme, tied: bool) -> None:
    config = replace(SMALL, tie_word_embeddings=tied)
    made = {t.name: t for t in quantise(float_model(config), config, scheme)}
    table = dict(stored_tensors(expected_shapes(config), scheme))
    expected = {name: part for parts in table.values() for name, part in parts.items()}
    assert list(made) == list(expected)
    for name, part in expected.items():
        assert made[name].shape == made[name].array.shape == part.shape, name
        assert made[name].dtype == (part.dtype or "float32"), name
        assert made[name].array.dtype.name == made[name].dtype


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if not s.equalised], ids=str)
def test_the_integers_stand_for_the_weights(scheme: Scheme) -> None:
    original = float_model(SMALL)
    back = {t.name: t for t in dequantise({t.name: t for t in quantise(original, SMALL, scheme)}, SMALL)}
    assert list(back) == list(original)
    for name, tensor in original.items():
        error = np.abs(back[name].array - tensor.array).max()
        four = scheme.method == "int4" and tensor.array.ndim == 2 and name.startswith("h.")
        assert error <= (0.5 if four else 0.03 if tensor.array.ndim == 2 else 0), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_sources(dtype: str) -> None:
    """They give what their float32 values give; a narrow wpe stays narrow where the engine can read it."""
    narrow = float_model(SMALL, dtype)
    wide = {name: Tensor(name, "float32", t.shape, t.to_float32()) for name, t in narrow.items()}
    scheme = Scheme(method="int4")
    for a, b in zip(quantise(narrow, SMALL, scheme), quantise(wide, SMALL, scheme), strict=True):
        if a.name == "wpe.weight" and dtype == "bfloat16":
            assert a is narrow[a.name]
        else:
            assert np.array_equal(a.array, b.array), a.name


@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_fc.weight", "h.0.ln_1.bias", "wpe.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    model = float_model(SMALL)
    model[name].array.reshape(-1)[5] = value
    with pytest.raises(WeightsError, match=f'"{name}".*not finite'):
        list(quantise(model, SMALL, Scheme(method="int8")))


def test_too_many_inputs_for_int32_sums() -> None:
    config = GPT2Config(vocab_size=2, n_positions=1, n_embd=1, n_head=1, n_layer=1, n_inner=32769)
    with pytest.raises(WeightsError, match=r"h\.0\.mlp\.c_proj\.weight.*32,769 inputs"):
        next(quantise(float_model(config), config, Scheme(method="int8")))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "seconds"), [("int8", 1.5), ("int4", 6.0)])
def test_the_124m_shape_takes_seconds(method: str, seconds: float) -> None:
    """Limits for an idle machine; memory beside the source: the result, and a block in float32."""
    config = GPT2Config()
    model = float_model(config)
    scheme = Scheme(method=method)  # type: ignore[arg-type]
    begin = time.process_time()
    size = sum(t.nbytes for t in [*quantise(model, config, scheme)])
    assert time.process_time() - begin < seconds
    tracemalloc.start()
    for _ in quantise(model, config, scheme):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 0.26 * sum(t.nbytes for t in model.values()) + config.n_positions * config.n_embd * 4
    assert peak < sum(t.nbytes for t in model.values())
