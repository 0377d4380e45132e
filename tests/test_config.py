"""GPT2Config against transformers' GPT2Config, both ways, and against everything that it must refuse."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.config import ACTIVATIONS, KNOWN_SIZES, GPT2Config, known_size
from gpt2.errors import ConfigError

RELEASED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "distilgpt2": 81_912_576,
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameter_counts_of_the_released_models(name: str) -> None:
    assert KNOWN_SIZES[name].n_params == RELEASED[name]
    assert KNOWN_SIZES[name].head_dim == 64
    assert known_size(KNOWN_SIZES[name].n_embd, KNOWN_SIZES[name].n_layer) == name


def test_parameter_count_is_the_sum_of_the_shapes() -> None:
    from gpt2.weights import expected_shapes

    config = GPT2Config(vocab_size=11, n_positions=7, n_embd=6, n_layer=3, n_head=2, n_inner=5)
    for tied in (True, False):
        config = dataclasses.replace(config, tie_word_embeddings=tied)
        total = 0
        for shape in expected_shapes(config).values():
            count = 1
            for size in shape:
                count *= size
            total += count
        assert config.n_params == total


configs = st.integers(1, 8).flatmap(
    lambda heads: st.fixed_dictionaries(
        {
            "n_head": st.just(heads),
            "n_embd": st.integers(1, 40).map(lambda d: d * heads),
            "vocab_size": st.integers(1, 70_000),
            "n_positions": st.integers(1, 4096),
            "n_layer": st.integers(1, 60),
        },
        optional={
            "n_inner": st.none() | st.integers(1, 5000),
            "activation_function": st.sampled_from(sorted(ACTIVATIONS)),
            "layer_norm_epsilon": st.floats(1e-12, 1e-2),
            "scale_attn_weights": st.booleans(),
            "scale_attn_by_inverse_layer_idx": st.booleans(),
            "reorder_and_upcast_attn": st.booleans(),
            "tie_word_embeddings": st.booleans(),
            "resid_pdrop": st.floats(0, 1),
            "initializer_range": st.floats(1e-6, 1),
            "bos_token_id": st.none() | st.integers(0, 60_000),
            "eos_token_id": st.none() | st.integers(0, 60_000) | st.lists(st.integers(0, 99), max_size=3),
            "summary_type": st.sampled_from(["cls_index", "last"]),
            "use_cache": st.booleans(),
            "task_specific_params": st.just({"text-generation": {"do_sample": True}}),
        },
    )
)


@given(fields=configs)
def test_round_trip_with_transformers(fields: dict) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[dev]'")
    theirs = transformers.GPT2Config(**fields)
    ours = GPT2Config.from_json(theirs.to_dict())
    assert transformers.GPT2Config(**ours.to_dict()).to_dict() == theirs.to_dict()
    assert GPT2Config.from_json(ours.to_dict()) == ours
    saved = GPT2Config.from_json(json.loads(theirs.to_json_string()))  # leaves defaults out of `extra`
    assert dataclasses.replace(saved, extra={}) == dataclasses.replace(ours, extra={})
    assert ours.inner == (theirs.n_inner or 4 * theirs.n_embd)


@given(fields=configs)
def test_save_then_load(fields: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("config")
    config = GPT2Config.from_json({**fields, "model_type": "gpt2"})
    file = config.save(folder)
    assert file == folder / "config.json"
    assert GPT2Config.from_json(folder) == GPT2Config.from_json(file) == config
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_unknown_harmless_keys_survive() -> None:
    raw = {
        "model_type": "gpt2",
        "n_embd": 8,
        "n_head": 2,
        "my_note": {"a": [1, None]},
        "n_ctx": 1024,
        "nothing": None,
    }
    config = GPT2Config.from_json(raw)
    assert raw.items() <= config.to_dict().items()
    # A second name for the window follows it.
    assert dataclasses.replace(config, n_positions=9).to_dict()["n_ctx"] == 9


def test_frozen_hashable_copyable() -> None:
    config = GPT2Config.from_json({"n_embd": 8, "n_head": 2, "note": "x"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_embd = 9  # type: ignore[misc]
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(copy.copy(config))


def test_every_activation_is_one_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[dev]'")
    activations = pytest.importorskip("transformers.activations", reason="the oracle")
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    for name, native in ACTIVATIONS.items():
        assert torch.allclose(activations.ACT2FN[name](x), activations.ACT2FN[native](x), atol=1e-9), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
        ("rope_scaling", {"type": "linear"}),
        ("rope_theta", 10_000.0),
        ("position_embedding_type", "relative_key"),
        ("sliding_window", 128),
        ("multi_query", True),
        ("attention_head_type", "multiquery"),
        ("alibi", True),
        ("mup_width_scale", 0.5),
        ("model_type", "gpt_neo"),
        ("architectures", ["LlamaForCausalLM"]),
        ("architectures", ["GPT2LMHeadCustomModel"]),
        ("architectures", "GPT2LMHeadModel"),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Mine"}),
        ("n_ctx", 2048),
        ("head_dim", 128),
        ("num_key_value_heads", 1),
        ("hidden_size", 1024),
        ("activation_function", "gelu_10"),
        ("activation_function", "mish"),
        ("activation_function", None),
        ("activation_function", 7),
        ("n_head", 5),
        ("n_head", 0),
        ("n_head", -12),
        ("n_embd", 0),
        ("n_embd", 768.0),
        ("n_embd", "768"),
        ("n_embd", True),
        ("n_embd", 1 << 40),
        ("n_layer", 10**30),
        ("n_layer", None),
        ("vocab_size", -1),
        ("n_positions", 1 << 31),
        ("n_inner", 0),
        ("layer_norm_epsilon", float("nan")),
        ("layer_norm_epsilon", float("inf")),
        ("layer_norm_epsilon", -1e-5),
        ("layer_norm_epsilon", "1e-5"),
        ("scale_attn_weights", 1),
        ("tie_word_embeddings", "false"),
        ("tie_word_embeddings", None),
        ("resid_pdrop", 1.5),
        ("eos_token_id", 1.5),
        ("eos_token_id", [1, "2"]),
        ("bos_token_id", 1 << 40),
        ("bos_token_id", [1]),
    ],
)
def test_what_cannot_be_honoured_is_named(field: str, value: object, tmp_path: Path) -> None:
    raw = {**KNOWN_SIZES["gpt2"].to_dict(), field: value}
    with pytest.raises(ConfigError, match=field):
        GPT2Config.from_json(raw)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        GPT2Config.from_json(path)
    assert str(path) == caught.value.where


def test_absurd_sizes_together() -> None:
    with pytest.raises(ConfigError, match="too large"):
        GPT2Config(vocab_size=1 << 24, n_embd=1 << 16, n_layer=512, n_head=1)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"a": 1}', b'{"n_embd": 8, "n_embd": 8}',
        b'{"layer_norm_epsilon": NaN}',
        b"\xff\xfe{}", b'{"n_embd":' + b"[" * 100_000, b'{"n_layer": ' + b"9" * 5000 + b"}", b" " * (5 << 20),
    ],
)  # fmt: skip
def test_files_that_are_no_config(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        GPT2Config.from_json(path)
    assert caught.value.where == str(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        GPT2Config.from_json(tmp_path)


def test_did_you_mean() -> None:
    with pytest.raises(ConfigError) as caught:
        GPT2Config(activation_function="gelu_neu")
    assert caught.value.hint == "did you mean 'gelu_new'?"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GPT2Config().save(tmp_path)
    before = (tmp_path / "config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        GPT2Config(n_layer=1).save(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
