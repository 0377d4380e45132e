"""Adapters in PEFT's format: theirs are read here, ours are loaded by PEFT, files that lie are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import changed_weight, peft_model, random_adapter, saved_peft
from checkpoints import random_gpt2
from gpt2 import errors
from gpt2.config import GPT2Config
from gpt2.weights import read_safetensors, save_safetensors
from gpt2.weights.adapters import LINEARS, Adapter, LowRank, read_adapter, save_adapter

SHAPE: dict[str, Any] = {"n_embd": 20, "n_head": 2, "n_layer": 3, "n_positions": 16, "vocab_size": 31}
CONFIG = GPT2Config(**SHAPE)

KINDS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["c_attn"]},
    "all": {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    "all-linear": {"target_modules": "all-linear"},
    "pattern": {"target_modules": r".*\.attn\.c_(attn|proj)"},
    "full names": {"target_modules": ["transformer.h.1.mlp.c_fc", "h.2.attn.c_proj"]},
    "some layers": {"target_modules": ["c_attn"], "layers_to_transform": [0, 2]},
    "excluded": {"target_modules": ["c_proj"], "exclude_modules": ["mlp.c_proj"]},
    "rslora": {"target_modules": ["c_fc"], "use_rslora": True, "r": 5},
    "dora": {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True},
    "ranks": {
        "target_modules": ["c_attn", "c_fc"],
        "rank_pattern": {"c_fc": 2, r"h\.1\.attn\.c_attn": 7},
        "alpha_pattern": {r"h\.[12]\.mlp\.c_fc": 3, "h.0.attn.c_attn": 1.5},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_is_read(kind: str, tmp_path: Path) -> None:
    base = random_gpt2(3, **SHAPE)
    before = {name: p.double().numpy() for name, p in base.transformer.state_dict().items()}
    theirs = peft_model(base, 1, **KINDS[kind])
    adapter = read_adapter(saved_peft(theirs, tmp_path), CONFIG)
    merged = theirs.double().merge_and_unload().transformer.state_dict()
    for name, weight in before.items():
        module = adapter.modules.get(name.removesuffix(".weight"))
        ours = weight if module is None else changed_weight(weight, module)
        np.testing.assert_allclose(ours, merged[name].numpy(), rtol=0, atol=1e-14 if module else 0)


@pytest.mark.parametrize("how", ["plain", "rslora", "dora", "ranks", "one matrix"])
def test_peft_loads_what_is_written(how: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import torch

    adapter = random_adapter(CONFIG, 5, rslora=how == "rslora", dora=how == "dora")
    modules = dict(adapter.modules)
    if how == "ranks":
        other = random_adapter(CONFIG, 6, rank=2, alpha=0.5).modules
        modules |= {name: other[name] for name in ("h.1.attn.c_attn", "h.2.mlp.c_proj", "h.0.mlp.c_fc")}
    if how == "one matrix":
        modules = {"h.1.mlp.c_proj": modules["h.1.mlp.c_proj"]}
    adapter = Adapter(modules=modules, dropout=0.25, base="gpt2")
    save_adapter(tmp_path / "a" / "b", adapter, CONFIG)
    again = read_adapter(tmp_path / "a" / "b", CONFIG)
    assert (again.hash(), again.dropout, again.base) == (adapter.hash(), 0.25, "gpt2")

    base = random_gpt2(3, **SHAPE).double()
    want = {name: p.numpy().copy() for name, p in base.transformer.state_dict().items()}
    for name, module in modules.items():
        want[f"{name}.weight"] = changed_weight(want[f"{name}.weight"], module)
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "a" / "b")
        ids = torch.arange(12)[None] % CONFIG.vocab_size
        got = loaded.eval()(ids).logits
        plain = random_gpt2(3, **SHAPE).double()
        plain.transformer.load_state_dict({name: torch.from_numpy(w) for name, w in want.items()})
        np.testing.assert_allclose(got.numpy(), plain(ids).logits.numpy(), rtol=0, atol=1e-12)


def test_narrow_tensors_are_widened_and_a_bin_is_read(tmp_path: Path) -> None:
    import torch

    theirs = peft_model(random_gpt2(3, **SHAPE), 1, target_modules=["c_attn"])
    for dtype, name in ((torch.bfloat16, "b"), (torch.float16, "h")):
        folder = saved_peft(theirs.to(dtype), tmp_path / name)
        adapter = read_adapter(folder, CONFIG)
        tensors = read_safetensors(folder / "adapter_model.safetensors")
        state = {key: tensor.to_float32() for key, tensor in tensors.items()}
        key = "base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"
        assert np.array_equal(adapter.modules["h.1.attn.c_attn"].a, state[key])
        (folder / "adapter_model.safetensors").unlink()
        torch.save({k: torch.from_numpy(v).to(dtype) for k, v in state.items()}, folder / "adapter_model.bin")
        assert read_adapter(folder, CONFIG).hash() == adapter.hash()


def test_an_adapter_of_the_model_without_its_head_is_read(tmp_path: Path) -> None:
    theirs = peft_model(random_gpt2(3, **SHAPE).transformer, 1, target_modules=["c_fc"], task_type=None)
    adapter = read_adapter(saved_peft(theirs, tmp_path), CONFIG)
    assert set(adapter.modules) == {f"h.{i}.mlp.c_fc" for i in range(3)}


# --- what is refused ---


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("good"), random_adapter(CONFIG, targets=LINEARS), CONFIG)


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))

    return change


A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
B = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"


def with_tensors(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = {name: np.array(tensor.array) for name, tensor in read_safetensors(path).items()}
        tensors |= {{"A": A, "B": B}.get(name, name): value for name, value in changes.items()}
        save_safetensors(path, {name: value for name, value in tensors.items() if value is not None})

    return change


def with_bytes(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def full(shape: tuple[int, ...], value: float = 0.5) -> Any:
    return np.full(shape, value, dtype=np.float32)


HOSTILE: dict[str, tuple[Callable[[Path], None], type[errors.Error], str]] = {
    "no config": (without("adapter_config.json"), errors.ModelNotFound, "adapter_config.json"),
    "no tensors": (without("adapter_model.safetensors"), errors.ModelNotFound, "no tensors"),
    "empty tensors": (with_bytes("adapter_model.safetensors", b"\0"), errors.CorruptFile, ""),
    "no JSON": (with_bytes("adapter_config.json", b"{"), errors.CorruptFile, "JSON"),
    "two keys": (with_bytes("adapter_config.json", b'{"r": 1, "r": 2}'), errors.CorruptFile, "twice"),
    "large config": (with_bytes("adapter_config.json", b" " * (1 << 21)), errors.CorruptFile, "large"),
    "NaN alpha": (with_bytes("adapter_config.json", b'{"lora_alpha": NaN}'), errors.CorruptFile, "NaN"),
    "another kind": (with_config(peft_type="IA3"), errors.ConfigError, "peft_type"),
    "no kind": (with_config(peft_type=...), errors.ConfigError, "peft_type"),
    "rank 0": (with_config(r=0), errors.ConfigError, "r: "),
    "rank true": (with_config(r=True), errors.ConfigError, "r: "),
    "rank of another": (with_config(r=4), errors.WeightsError, "rank"),
    "alpha in words": (with_config(lora_alpha="16"), errors.ConfigError, "lora_alpha"),
    "alpha huge": (with_config(lora_alpha=1e300), errors.ConfigError, "lora_alpha"),
    "biases": (with_config(bias="all"), errors.ConfigError, "bias"),
    "saved modules": (with_config(modules_to_save=["wte"]), errors.ConfigError, "modules_to_save"),
    "lora_bias": (with_config(lora_bias=True), errors.ConfigError, "lora_bias"),
    "pissa": (with_config(init_lora_weights="pissa_niter_16"), errors.ConfigError, "init_lora_weights"),
    "layers twice": (with_config(layer_replication=[[0, 2]]), errors.ConfigError, "layer_replication"),
    "from the future": (with_config(use_magic=True), errors.ConfigError, "use_magic"),
    "flag in words": (with_config(use_dora="yes"), errors.ConfigError, "use_dora"),
    "dora without": (with_config(use_dora=True), errors.WeightsError, "lora_magnitude_vector"),
    "more targets": (with_config(target_modules=["c_attn"]), errors.WeightsError, "does not name"),
    "targets a number": (with_config(target_modules=5), errors.ConfigError, "target_modules"),
    "slow pattern": (with_config(alpha_pattern={"(a+)+(b+)+x": 1}), errors.ConfigError, "alpha_pattern"),
    "many patterns": (
        with_config(rank_pattern={f"h\\.{i}": 3 for i in range(20)}), errors.ConfigError, "rank_pattern",
    ),
    "no matrix A": (with_tensors(A=None), errors.WeightsError, "lora_A"),
    "no matrices": (with_tensors(A=None, B=None), errors.WeightsError, "h.0.attn.c_attn"),
    "wide A": (with_tensors(A=full((3, 21))), errors.WeightsError, "h.0.attn.c_attn.lora_A"),
    "A turned": (with_tensors(A=full((20, 3))), errors.WeightsError, "h.0.attn.c_attn.lora_A"),
    "rank 0 in A": (with_tensors(A=full((0, 20))), errors.WeightsError, "rank"),
    "flat A": (with_tensors(A=full((60,))), errors.WeightsError, "lora_A"),
    "ranks differ": (with_tensors(B=full((60, 2))), errors.WeightsError, "h.0.attn.c_attn.lora_B"),
    "NaN": (with_tensors(B=full((60, 3), np.nan)), errors.WeightsError, "not finite"),
    "infinity": (with_tensors(A=full((3, 20), -np.inf)), errors.WeightsError, "not finite"),
    "integers": (with_tensors(A=np.ones((3, 20), np.int32)), errors.WeightsError, "int32"),
    "a stranger": (with_tensors(x=full((2,))), errors.WeightsError, "no part of an adapter"),
    "another layer": (
        with_tensors(**{A.replace("h.0", "h.3"): full((3, 20)), B.replace("h.0", "h.3"): full((60, 3))}),
        errors.WeightsError, "h.3.attn.c_attn",
    ),
    "an embedding": (
        with_tensors(**{"base_model.model.transformer.wte.lora_embedding_A": full((3, 31))}),
        errors.WeightsError, "embedding",
    ),
    "twice": (
        with_tensors(**{A.removeprefix("base_model.model.transformer."): full((3, 20))}),
        errors.WeightsError, "both",
    ),
    "a magnitude alone": (
        with_tensors(**{A.replace("lora_A.weight", "lora_magnitude_vector"): full((60,))}),
        errors.WeightsError, "use_dora",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", HOSTILE)
def test_what_lies_is_refused(lie: str, good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "adapter"))
    change, kind, words = HOSTILE[lie]
    change(folder)
    with pytest.raises(errors.Error) as caught:
        read_adapter(folder, CONFIG)
    assert type(caught.value) is kind, caught.value
    assert words in str(caught.value)


def test_a_file_of_the_directory_names_it_and_nothing_else_does(good: Path, tmp_path: Path) -> None:
    wanted = read_adapter(good, CONFIG).hash()
    assert read_adapter(good / "adapter_model.safetensors", CONFIG).hash() == wanted
    assert read_adapter(good / "adapter_config.json", CONFIG).hash() == wanted
    for path in (tmp_path, tmp_path / "nothing", __file__):
        with pytest.raises(errors.ModelNotFound, match="no adapter"):
            read_adapter(path, CONFIG)


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    good = random_adapter(CONFIG).modules["h.0.attn.c_attn"]
    wrong: list[tuple[dict[str, LowRank], str]] = [
        ({}, "nothing"),
        ({"h.9.attn.c_attn": good}, "h.9"),
        ({"wte": good}, "wte"),
        ({"h.0.mlp.c_proj": good}, "lora_A"),
        ({"h.0.attn.c_attn": LowRank(a=good.a, b=good.b, alpha=float("nan"))}, "alpha"),
        ({"h.0.attn.c_attn": LowRank(a=good.a, b=good.b * np.nan, alpha=1.0)}, "not finite"),
    ]
    for modules, words in wrong:
        with pytest.raises(errors.WeightsError, match=words):
            save_adapter(tmp_path / "out", Adapter(modules=modules), CONFIG)
    assert not (tmp_path / "out").exists()
    with pytest.raises(errors.WeightsError, match="written"):
        save_adapter(Path(__file__) / "out", random_adapter(CONFIG), CONFIG)


def test_the_hash_names_what_is_computed() -> None:
    adapter = random_adapter(CONFIG, 1)
    modules = dict(adapter.modules)
    same = Adapter(modules=dict(reversed(modules.items())), dropout=0.5, base="other")
    assert same.hash() == adapter.hash()
    first = modules["h.0.attn.c_attn"]
    others = [
        LowRank(a=first.a, b=first.b, alpha=first.alpha + 1),
        LowRank(a=first.a, b=-first.b, alpha=first.alpha),
        LowRank(a=first.a, b=first.b, alpha=first.alpha, rslora=True),
        LowRank(a=first.a, b=first.b, alpha=first.alpha, magnitude=np.ones(60, np.float32)),
    ]
    hashes = {Adapter(modules=modules | {"h.0.attn.c_attn": other}).hash() for other in others}
    assert len(hashes | {adapter.hash()}) == 5
