"""The tensors against the config: what fits, what does not, and what the message says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.config import KNOWN_SIZES, GPT2Config
from gpt2.errors import WeightsError
from gpt2.weights import (
    Tensor,
    Weights,
    check_weights,
    expected_shapes,
    infer_config,
    open_weights,
    save_safetensors,
)
from weights.make_files import TINY, tiny_arrays


def save(folder: Path, arrays: dict[str, Any], prefix: str = "") -> Path:
    return save_safetensors(folder / "model.safetensors", {prefix + name: a for name, a in arrays.items()})


def pretend(config: GPT2Config, dtype: str = "float32") -> Weights:
    """Weights of any size that take no memory: every element is the same byte."""
    zero = np.zeros((), np.float32)
    return Weights(
        [Tensor(name, dtype, s, np.broadcast_to(zero, s)) for name, s in expected_shapes(config).items()],
        files=[], format="safetensors", path="model.safetensors",
    )  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_SIZES)
def test_the_released_shapes(name: str) -> None:
    config = KNOWN_SIZES[name]
    weights = pretend(config)
    check_weights(weights, config)
    assert sum(tensor.array.size for tensor in weights.values()) == config.n_params
    guess = infer_config(weights)
    assert guess.config == config
    assert f"n_head={config.n_head} is a guess" in "\n".join(guess.notes)


@pytest.mark.parametrize("prefix", ["", "transformer.", "_orig_mod.transformer.", "module."])
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    save(tmp_path, tiny_arrays(), prefix)
    with open_weights(tmp_path, TINY) as weights:
        assert set(weights) == set(expected_shapes(TINY))


def test_a_tied_head_that_repeats_wte(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    save(tmp_path, {**arrays, "lm_head.weight": arrays["wte.weight"]})
    assert "lm_head.weight" not in open_weights(tmp_path, TINY)
    assert infer_config(open_weights_with_heads(tmp_path)).config.tie_word_embeddings


def open_weights_with_heads(folder: Path) -> Weights:
    """The tiny model widened to 64, for which the number of heads can be guessed."""
    wide = dataclasses.replace(TINY, n_embd=64, n_head=1)
    arrays = tiny_arrays(wide)
    save(folder, {**arrays, "lm_head.weight": arrays["wte.weight"]})
    return open_weights(folder)


def test_a_tied_head_that_differs(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    save(tmp_path, {**arrays, "lm_head.weight": arrays["wte.weight"] + 1})
    with pytest.raises(WeightsError, match=r'"lm_head.weight" differs from "wte.weight"'):
        open_weights(tmp_path, TINY)
    untied = dataclasses.replace(TINY, tie_word_embeddings=False)
    assert open_weights(tmp_path, untied)["lm_head.weight"].array[0, 0] == 1


def test_an_untied_head_that_is_missing(tmp_path: Path) -> None:
    save(tmp_path, tiny_arrays())
    with pytest.raises(WeightsError, match=r"tie_word_embeddings=false"):
        open_weights(tmp_path, dataclasses.replace(TINY, tie_word_embeddings=False))


@pytest.mark.parametrize("name", expected_shapes(TINY))
def test_each_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    arrays = tiny_arrays()
    del arrays[name]
    save(tmp_path, arrays)
    with pytest.raises(WeightsError, match=rf'tensor "{re.escape(name)}" is missing'):
        open_weights(tmp_path, TINY)


@pytest.mark.parametrize("name", expected_shapes(TINY))
def test_each_wrong_shape_is_named(name: str, tmp_path: Path) -> None:
    arrays = tiny_arrays()
    arrays[name] = np.zeros((*arrays[name].shape, 2), np.float32)
    save(tmp_path, arrays)
    with pytest.raises(WeightsError) as caught:
        open_weights(tmp_path, TINY)
    assert f'tensor "{name}" has the wrong shape' in str(caught.value)
    assert caught.value.got == str(list(arrays[name].shape))
    assert caught.value.expected == str(list(expected_shapes(TINY)[name]))


def test_an_extra_tensor_is_named(tmp_path: Path) -> None:
    save(tmp_path, {**tiny_arrays(), "h.0.attn.rotary.inv_freq": np.zeros(2, np.float32)})
    with pytest.raises(WeightsError, match=r'"h.0.attn.rotary.inv_freq" is no part of this model'):
        open_weights(tmp_path, TINY)
    save(tmp_path, {**tiny_arrays(), "score.weight": np.zeros(2, np.float32)})
    with pytest.raises(WeightsError, match=r"score.weight"):
        open_weights(tmp_path, TINY)


@pytest.mark.parametrize("dtype", ["float64", "int8", "int32", "uint8"])
def test_a_wrong_dtype_is_named(dtype: str, tmp_path: Path) -> None:
    save(tmp_path, tiny_arrays(dtype=dtype))
    with pytest.raises(WeightsError, match=f"got {dtype}, expected float32 or float16 or bfloat16"):
        open_weights(tmp_path, TINY)


def test_buffers_may_have_any_dtype(tmp_path: Path) -> None:
    buffers = {
        "h.0.attn.bias": np.ones((1, 1, 5, 5), bool),
        "h.0.attn.masked_bias": np.float32(-1e4).reshape(()),
    }
    save(tmp_path, {**tiny_arrays(), **buffers}, "transformer.")
    assert set(open_weights(tmp_path, TINY)) == set(expected_shapes(TINY))


def test_file_and_config_of_two_sizes() -> None:
    with pytest.raises(WeightsError) as caught:
        check_weights(pretend(KNOWN_SIZES["gpt2"]), KNOWN_SIZES["gpt2-medium"])
    assert str(caught.value) == (
        'model.safetensors: tensor "wte.weight" has the wrong shape: '
        "got [50257, 768], expected [50257, 1024]\n"
        "  expected comes from config.json (vocab_size=50257, n_embd=1024)\n"
        "  the file looks like gpt2 (124M), the config like gpt2-medium (355M)\n"
        "  try: gpt2 inspect model.safetensors"
    )
    with pytest.raises(WeightsError, match=r"looks like distilgpt2 \(82M\), the config like gpt2 \(124M\)"):
        check_weights(pretend(KNOWN_SIZES["distilgpt2"]), KNOWN_SIZES["gpt2"])
    with pytest.raises(
        WeightsError, match=r"looks like gpt2-xl \(1.6B\), the config like one of width 4 with 1"
    ):
        check_weights(pretend(KNOWN_SIZES["gpt2-xl"]), TINY)


def test_linear_layout_is_recognised_and_transposed_when_asked(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    matrices = [name for name in arrays if re.search(r"(c_attn|c_proj|c_fc)\.weight", name)]
    assert len(matrices) == 4
    save(tmp_path, {name: a.T if name in matrices else a for name, a in arrays.items()})
    with pytest.raises(WeightsError, match=r"\[out, in\].*\n.*layout=\"linear\""):
        open_weights(tmp_path, TINY)
    weights = open_weights(tmp_path, TINY, layout="linear")
    assert all(np.array_equal(weights[name].contiguous(), a) for name, a in arrays.items())
    assert all(weights[name].contiguous().flags.c_contiguous for name in arrays)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_finite_is_checked_when_asked(value: float, dtype: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = tiny_arrays(dtype="float32")
    arrays["h.0.ln_2.bias"][2] = value
    if dtype == "bfloat16":
        arrays = {
            name: Tensor(name, dtype, a.shape, (a.view(np.uint32) >> 16).astype(np.uint16))
            for name, a in arrays.items()
        }
    else:
        arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    save(tmp_path, arrays)
    weights = open_weights(tmp_path, TINY)
    with pytest.raises(
        WeightsError, match=r'"h.0.ln_2.bias" has a value that is not finite: got index \[2\]'
    ):
        check_weights(weights, TINY, finite=True)


def test_finite_weights_pass(tmp_path: Path) -> None:
    save(tmp_path, tiny_arrays())
    check_weights(open_weights(tmp_path), TINY, finite=True)


def test_a_config_is_guessed_and_says_so(tmp_path: Path) -> None:
    config = GPT2Config(
        vocab_size=33, n_positions=9, n_embd=128, n_layer=3, n_head=2, n_inner=100, tie_word_embeddings=False
    )
    save(tmp_path, tiny_arrays(config))
    guess = infer_config(open_weights(tmp_path))
    assert guess.config == config
    assert any("n_head=2 is a guess: n_embd / 64" in note for note in guess.notes)


def test_a_config_that_cannot_be_guessed(tmp_path: Path) -> None:
    save(tmp_path, tiny_arrays())
    with pytest.raises(WeightsError, match="number of heads"):
        infer_config(open_weights(tmp_path))
    save(tmp_path, {"a": np.zeros(2, np.float32)})
    with pytest.raises(WeightsError, match="do not tell"):
        infer_config(open_weights(tmp_path))
