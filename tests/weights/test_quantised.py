"""Reading quantised files: what is right opens mapped, what is wrong is an error that says which and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.config import GPT2Config
from gpt2.errors import ConfigError, InvalidRequest, WeightsError
from gpt2.quant import quantise
from gpt2.weights import Scheme, Tensor, infer_config, open_weights, save_safetensors
from gpt2.weights.scheme import KEY
from weights.make_files import TINY, tiny_arrays

INT8, INT4 = Scheme(method="int8"), Scheme(method="int4", group=64, symmetric=False)
C_FC = "h.0.mlp.c_fc.weight"
Arrays = dict[str, np.ndarray]


def arrays(scheme: Scheme) -> Arrays:
    source = {name: Tensor(name, "float32", a.shape, a) for name, a in tiny_arrays().items()}
    return {tensor.name: tensor.array.copy() for tensor in quantise(source, TINY, scheme)}


def with_scheme(scheme: Scheme | dict[str, Any] | None) -> GPT2Config:
    raw = scheme.to_dict() if isinstance(scheme, Scheme) else scheme
    return dataclasses.replace(TINY, extra={} if raw is None else {KEY: raw})


def write(folder: Path, tensors: Arrays, scheme: Scheme, said: str | None = None) -> Path:
    text = json.dumps(scheme.to_dict()) if said is None else said
    return save_safetensors(folder / "model.safetensors", tensors, {KEY: text}, align=64)


@pytest.mark.parametrize(
    "scheme", [INT8, INT4, Scheme(method="int8", symmetric=False), Scheme(method="int4")]
)
def test_a_good_file_opens_aligned(scheme: Scheme, tmp_path: Path) -> None:
    tensors = arrays(scheme)
    write(tmp_path, tensors, scheme)
    with_scheme(scheme).save(tmp_path)
    config = GPT2Config.from_json(tmp_path)
    assert Scheme.of(config) == scheme
    weights = open_weights(tmp_path, config)
    assert weights.keys() == tensors.keys()
    for name, tensor in weights.items():
        assert np.array_equal(tensor.array, tensors[name])
        if tensor.nbytes % 64 == 0:
            assert tensor.array.__array_interface__["data"][0] % 64 == 0, name
        assert tensor.array.flags.aligned, name


def test_the_format_library_reads_the_aligned_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = arrays(INT4)
    read = load_file(write(tmp_path, tensors, INT4))
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def drop(name: str) -> Callable[[Arrays], None]:
    return lambda a: a.__delitem__(name)


def put(name: str, value: object) -> Callable[[Arrays], None]:
    def change(a: Arrays) -> None:
        a[name].reshape(-1)[3] = value

    return change


def recast(name: str, dtype: str) -> Callable[[Arrays], None]:
    return lambda a: a.update({name: a[name].astype(dtype)})


def cut(name: str) -> Callable[[Arrays], None]:
    return lambda a: a.update({name: a[name][:0]})


def reshape(name: str) -> Callable[[Arrays], None]:
    return lambda a: a.update({name: a[name].reshape(-1)})


def shift(a: Arrays) -> None:
    """Offsets with which the largest level is 128."""
    a[C_FC + ".offset"][0, 0, 5] = 128 - 15 * int(a[C_FC + ".mult"][0, 0, 5])


def extra(a: Arrays) -> None:
    a[C_FC + ".zero"] = np.zeros(16, np.int8)


def float_head(a: Arrays) -> None:
    a["lm_head.weight"] = np.zeros((7, 4), np.float32)


HOSTILE: list[tuple[Scheme, Callable[[Arrays], None], str]] = [
    (INT8, drop(C_FC + ".scale"), rf"{C_FC}\.scale.* is missing"),
    (INT8, drop(C_FC + ".q"), rf"{C_FC}\.q.* is missing"),
    (INT8, drop("wte.weight.q"), r"wte\.weight\.q.* is missing"),
    (INT8, drop("h.0.ln_1.bias"), r"ln_1\.bias.* is missing"),
    (INT8, cut(C_FC + ".q"), r"wrong shape.*\[0, 16, 16, 4\].*\[1, 16, 16, 4\]"),
    (INT8, reshape(C_FC + ".q"), r"wrong shape.*\[1024\]"),
    (INT8, cut(C_FC + ".scale"), r"wrong shape.*\[0\].*\[16\]"),
    (INT8, recast(C_FC + ".q", "uint8"), r"wrong dtype.*uint8.*int8"),
    (INT8, recast(C_FC + ".scale", "float16"), r"wrong dtype.*float16.*float32"),
    (INT8, recast("h.0.ln_1.bias", "int32"), r"wrong dtype.*int32.*float32"),
    (INT8, put(C_FC + ".scale", np.nan), r"\.scale.*cannot be.*nan at index \[3\]"),
    (INT8, put(C_FC + ".scale", np.inf), r"\.scale.*cannot be.*inf"),
    (INT8, put(C_FC + ".scale", 0.0), r"\.scale.*cannot be.*0\.0"),
    (INT8, put(C_FC + ".scale", -1.0), r"\.scale.*cannot be.*-1"),
    (INT8, put("wte.weight.scale", np.nan), r"wte\.weight\.scale.*cannot be"),
    (INT8, extra, r"\.zero.*no part"),
    (INT8, float_head, r"lm_head\.weight.*no part"),
    (INT4, drop(C_FC + ".mult"), r"\.mult.*missing"),
    (INT4, drop(C_FC + ".offset"), r"\.offset.*missing"),
    (INT4, drop(C_FC + ".q4"), r"\.q4.*missing"),
    (INT4, cut(C_FC + ".mult"), r"wrong shape"),
    (INT4, recast(C_FC + ".q4", "int8"), r"wrong dtype"),
    (INT4, recast(C_FC + ".mult", "int8"), r"wrong dtype"),
    (INT4, recast(C_FC + ".offset", "uint8"), r"wrong dtype"),
    (INT4, put(C_FC + ".mult", 0), r"\.mult.*cannot be.*0 at index \[0, 0, 3\].*1 to 15"),
    (INT4, put(C_FC + ".mult", 16), r"\.mult.*cannot be.*16"),
    (INT4, put(C_FC + ".mult", 200), r"\.mult.*cannot be.*200"),
    (INT4, put(C_FC + ".offset", 127), r"\.offset.*cannot be"),
    (INT4, shift, r"\.offset.*cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "spoil", "match"), HOSTILE, ids=[match for _, _, match in HOSTILE])
def test_hostile(scheme: Scheme, spoil: Callable[[Arrays], None], match: str, tmp_path: Path) -> None:
    tensors = arrays(scheme)
    spoil(tensors)
    write(tmp_path, tensors, scheme)
    with pytest.raises(WeightsError, match=f"(?s){match}"):
        open_weights(tmp_path, with_scheme(scheme))


def test_the_file_and_the_config_must_agree(tmp_path: Path) -> None:
    write(tmp_path, arrays(INT4), INT4)
    with pytest.raises(WeightsError, match="differ in how"):
        open_weights(tmp_path, with_scheme(dataclasses.replace(INT4, group=128)))
    write(tmp_path, arrays(INT4), INT4, said="{")
    with pytest.raises(WeightsError, match="differ in how"):
        open_weights(tmp_path, with_scheme(INT4))
    save_safetensors(tmp_path / "model.safetensors", arrays(INT4))  # other writers say nothing
    assert open_weights(tmp_path, with_scheme(INT4))
    with pytest.raises(WeightsError, match=r"(?s)wrong shape|missing"):
        open_weights(tmp_path, with_scheme(INT8))


def test_a_config_that_lost_its_scheme_and_the_reverse(tmp_path: Path) -> None:
    write(tmp_path, arrays(INT8), INT8)
    with pytest.raises(
        WeightsError, match=r'the tensors are quantised, and config\.json has no "quantization"'
    ):
        open_weights(tmp_path, TINY)
    with pytest.raises(WeightsError, match="the tensors do not tell the model's sizes"):
        infer_config(open_weights(tmp_path))
    save_safetensors(tmp_path / "model.safetensors", tiny_arrays())
    with pytest.raises(WeightsError, match=r"the tensors are floating point, and config\.json says how"):
        open_weights(tmp_path, with_scheme(INT8))


GOOD = INT4.to_dict()
WRONG: list[tuple[object, str]] = [
    ("int8", "quantization"),
    ([], "quantization"),
    (GOOD | {"method": "gpt2-int3"}, "method"),
    (GOOD | {"method": "int8"}, "method"),
    (GOOD | {"method": None}, "method"),
    (GOOD | {"method": ["gpt2-int8"]}, "method"),
    ({k: v for k, v in GOOD.items() if k != "method"}, "method"),
    ({k: v for k, v in GOOD.items() if k != "group"}, "group"),
    ({k: v for k, v in GOOD.items() if k != "symmetric"}, "symmetric"),
    ({k: v for k, v in GOOD.items() if k != "head"}, "head"),
    (GOOD | {"group": 16}, "group"),
    (GOOD | {"group": 64.0}, "group"),
    (GOOD | {"group": True}, "group"),
    (GOOD | {"group": "64"}, "group"),
    (GOOD | {"group": [64]}, "group"),
    (GOOD | {"method": "gpt2-int8"}, "group"),
    (GOOD | {"symmetric": 1}, "symmetric"),
    (GOOD | {"symmetric": "yes"}, "symmetric"),
    (GOOD | {"head": "int4"}, "head"),
    (GOOD | {"equalised": None}, "equalised"),
    (GOOD | {"sparsity": 0.5}, "sparsity"),
]


@pytest.mark.parametrize(("raw", "field"), WRONG, ids=[json.dumps(raw) for raw, _ in WRONG])
def test_schemes_that_cannot_be(raw: Any, field: str, tmp_path: Path) -> None:
    write(tmp_path, arrays(INT4), INT4)
    with pytest.raises(ConfigError, match=field):
        open_weights(tmp_path, with_scheme(raw))


def test_schemes_in_and_out() -> None:
    for method in ("int8", "int4"):
        for symmetric in (True, False):
            scheme = Scheme(method=method, symmetric=symmetric)  # type: ignore[arg-type]
            assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    assert Scheme(method="int4").group == 32
    with pytest.raises(InvalidRequest, match="group"):
        Scheme(method="int8", group=32)
    with pytest.raises(InvalidRequest, match="method"):
        Scheme(method="int2")  # type: ignore[arg-type]
