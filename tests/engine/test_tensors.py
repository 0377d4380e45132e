"""What the native engine is given for each way to keep the matrices, from float files and quantised ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpt2.config import GPT2Config
from gpt2.engine.tensors import native_tensors
from gpt2.errors import InvalidRequest
from gpt2.quant import dequantise, quantise
from gpt2.weights import Scheme, expected_shapes, open_weights, save_safetensors
from gpt2.weights.hub import bundled
from gpt2.weights.packed import stored_tensors
from gpt2.weights.scheme import KEY

SCHEMES = [Scheme(method="int8"), Scheme(method="int4"), Scheme(method="int4", group=128, symmetric=False)]


def demo() -> GPT2Config:
    return GPT2Config.from_json(bundled())


def written(folder: Path, scheme: Scheme) -> GPT2Config:
    """A quantised model directory without its tokenizer."""
    config = demo()
    made = {t.name: t for t in quantise(open_weights(bundled(), config), config, scheme)}
    config = dataclasses.replace(config, extra={**config.extra, KEY: scheme.to_dict()})
    save_safetensors(folder / "model.safetensors", made, align=64)
    config.save(folder)
    return config


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_quantised_file_is_mapped(scheme: Scheme, tmp_path: Path) -> None:
    config = written(tmp_path, scheme)
    opened = open_weights(tmp_path, config)
    arrays, dtype = native_tensors(opened, config)
    assert dtype == scheme.method
    table = dict(stored_tensors(expected_shapes(config), scheme))
    for parts in table.values():
        for name, part in parts.items():
            assert arrays.pop(name).shape == part.shape
            if len(part.shape) > 1:
                given = native_tensors(opened, config)[0][name]
                assert np.shares_memory(given, opened[name].array)
    assert not arrays


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_narrowing_at_load_is_the_written_file(method: str, tmp_path: Path) -> None:
    scheme = Scheme(method=method)  # type: ignore[arg-type]
    config = written(tmp_path, scheme)
    from_file, _ = native_tensors(open_weights(tmp_path, config), config)
    at_load, dtype = native_tensors(open_weights(bundled(), demo()), demo(), method)  # type: ignore[arg-type]
    assert dtype == method
    assert at_load.keys() == from_file.keys()
    for name, array in at_load.items():
        assert array.dtype == from_file[name].dtype, name
        assert np.array_equal(array, from_file[name]), name


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_widening_gives_what_the_integers_stand_for(scheme: Scheme, tmp_path: Path) -> None:
    config = written(tmp_path, scheme)
    opened = open_weights(tmp_path, config)
    arrays, dtype = native_tensors(opened, config, "float32")
    assert dtype == "float32"
    assert {name: a.shape for name, a in arrays.items()} == expected_shapes(config)
    for tensor in dequantise(opened, config):
        assert np.array_equal(arrays[tensor.name], tensor.to_float32()), tensor.name
    assert {a.dtype.name for a in native_tensors(opened, config, "bfloat16")[0].values()} == {
        "uint16",
        "float32",
    }


def test_nothing_is_rounded_twice(tmp_path: Path) -> None:
    config = written(tmp_path, Scheme(method="int8"))
    with pytest.raises(InvalidRequest, match="rounding a second time"):
        native_tensors(open_weights(tmp_path, config), config, "int4")
