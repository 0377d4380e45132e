"""Right files, read and written, equal to what the formats' own libraries make of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpt2.config import GPT2Config
from gpt2.errors import CorruptFile, InvalidRequest, ModelNotFound, WeightsError
from gpt2.weights import (
    NUMPY_OF,
    Tensor,
    Weights,
    canonical_name,
    fingerprint,
    infer_config,
    open_weights,
    read_safetensors,
    save_safetensors,
)
from weights.make_files import TINY, good_safetensors, safetensors_file, tiny_arrays

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[dev]'")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="the oracle; pip install -e '.[dev]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[dev]'")

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BUFFER = (".attn.bias", ".attn.masked_bias")


def bits(tensor: Any) -> np.ndarray:
    """A torch tensor's elements as bytes."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)


def assert_same(ours: Weights, theirs: dict[str, Any]) -> None:
    """The same names but for the buffers, and the same bytes."""
    wanted = {canonical_name(name): value for name, value in theirs.items() if not name.endswith(BUFFER)}
    assert set(ours) == set(wanted)
    for name, value in wanted.items():
        tensor = ours[name]
        assert tensor.shape == tuple(value.shape)
        assert tensor.dtype == str(value.dtype).removeprefix("torch.")
        assert tensor.array.dtype == NUMPY_OF[tensor.dtype]
        assert not tensor.array.flags.writeable
        assert np.array_equal(tensor.contiguous().reshape(-1).view(np.uint8), bits(value)), name
        if tensor.dtype in FLOATS:
            assert np.array_equal(tensor.to_float32(), value.detach().float().numpy())


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(7)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=101, n_positions=16, n_embd=24, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_torch_save(model: Any, tmp_path: Path, dtype: str, protocol: int, legacy: bool) -> None:
    state = {name: value.to(FLOATS[dtype]) for name, value in model.state_dict().items()}
    path = tmp_path / "a.safetensors"  # the name says nothing
    torch.save(state, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    with open_weights(path) as weights:
        assert weights.format == ("torch-legacy" if legacy else "torch-zip")
        assert_same(weights, state)
    config = GPT2Config.from_json(model.config.to_dict())
    assert "lm_head.weight" not in open_weights(path, config)


def test_torch_save_without_checksums(model: Any, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), tmp_path / "m.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(open_weights(tmp_path / "m.bin"), model.state_dict())


def test_torch_views_and_strides(tmp_path: Path) -> None:
    base = torch.arange(60.0)
    state = {
        "all": base, "part": base[7:19], "matrix": base.view(6, 10), "transposed": base.view(6, 10).t(),
        "stepped": base[::7], "scalar": base[5], "empty": base[:0], "corner": base.view(3, 4, 5)[1:, 2:, 3:],
    }  # fmt: skip
    for legacy in (False, True):
        torch.save(state, tmp_path / "m", _use_new_zipfile_serialization=not legacy)
        assert_same(open_weights(tmp_path / "m"), state)


def test_torch_every_dtype(tmp_path: Path) -> None:
    state = {kind: torch.tensor([0, 1, 1]).to(getattr(torch, kind)) for kind in DTYPES if "uint" not in kind}
    state["uint8"] = torch.tensor([0, 1, 1]).to(torch.uint8)
    torch.save(state, tmp_path / "m")
    assert_same(open_weights(tmp_path / "m"), state)


def test_training_checkpoint_with_the_model_inside(model: Any, tmp_path: Path) -> None:
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)).loss.backward()
    optimiser.step()
    prefixed = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    whole = {
        "model": prefixed, "optimizer": optimiser.state_dict(), "iter_num": 7,
        "best_val_loss": torch.tensor(1.5), "model_args": {"n_layer": 3, "dropout": 0.0, "bias": True},
        "config": {"out_dir": "out", "none": None},
    }  # fmt: skip
    torch.save(whole, tmp_path / "ckpt.pt")
    assert_same(open_weights(tmp_path / "ckpt.pt"), model.state_dict())


def test_parameters_instead_of_tensors(model: Any, tmp_path: Path) -> None:
    torch.save(dict(model.named_parameters()), tmp_path / "m")
    assert_same(open_weights(tmp_path / "m"), dict(model.named_parameters()))


@pytest.mark.parametrize("dtype", FLOATS)
def test_transformers_save_pretrained(model: Any, tmp_path: Path, dtype: str) -> None:
    copy = type(model)(model.config).to(FLOATS[dtype])
    copy.save_pretrained(tmp_path)
    config = GPT2Config.from_json(tmp_path)
    state = {name: value for name, value in copy.state_dict().items() if name != "lm_head.weight"}
    with open_weights(tmp_path, config) as weights:
        assert_same(weights, state)
        assert weights.metadata == {"format": "pt"}


def test_transformers_sharded(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    config = GPT2Config.from_json(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with open_weights(path, config) as weights:
            assert_same(weights, state)
            assert sorted(weights.files) == shards


def test_torch_shards(model: Any, tmp_path: Path) -> None:
    names = list(model.state_dict())
    halves = {"p-1.bin": names[: len(names) // 2], "p-2.bin": names[len(names) // 2 :]}
    for file, part in halves.items():
        torch.save({name: model.state_dict()[name].clone() for name in part}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same(open_weights(tmp_path), model.state_dict())


def test_the_real_world_checkpoint(shared_data: Path) -> None:
    folder = shared_data / "checkpoints" / "tiny-gpt2"
    config = GPT2Config.from_json(folder)
    read = open_weights(folder / "model.safetensors", config)
    assert_same(read, safetensors_torch.load_file(folder / "model.safetensors"))
    legacy = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert_same(open_weights(folder / "pytorch_model.bin"), legacy)
    other = open_weights(folder / "pytorch_model.bin", config)
    assert {name: tensor.array.tobytes() for name, tensor in other.items()} == {
        name: tensor.array.tobytes() for name, tensor in read.items()
    }


def test_the_real_124m() -> None:
    folder = os.environ.get("GPT2_REAL_WEIGHTS")
    if not folder:
        pytest.skip("needs the weights of openai-community/gpt2: set GPT2_REAL_WEIGHTS to their folder")
    config = GPT2Config.from_json(folder)
    assert config.n_params == 124_439_808
    with open_weights(folder, config) as weights:
        assert infer_config(weights).config.n_head == 12
    assert fingerprint(Path(folder) / "model.safetensors").files["model.safetensors"] == (
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
    )


def test_old_buffers_are_dropped(model: Any, tmp_path: Path) -> None:
    mask = torch.tril(torch.ones(16, 16, dtype=torch.bool)).view(1, 1, 16, 16)
    extra = {
        f"{prefix}h.{i}.attn.{name}": value
        for prefix in ("transformer.",)
        for i in range(3)
        for name, value in (("bias", mask.clone()), ("masked_bias", torch.tensor(-1e4)))
    }
    safetensors_torch.save_file({**tied_apart(model), **extra}, tmp_path / "m")
    open_weights(tmp_path / "m", GPT2Config.from_json(model.config.to_dict()))


def tied_apart(model: Any) -> dict[str, Any]:
    """The state with the head as a tensor of its own, as safetensors demands."""
    return {name: value.clone() for name, value in model.state_dict().items()}


# safetensors, byte for byte

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(
    "__metadata__".__ne__
)
DTYPES = [name for name in NUMPY_OF if not name.startswith("float8")]


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, Any]:
    out = {}
    for name in draw(st.lists(texts, unique=True, max_size=6)):
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(shapes)
        if 0 in shape and any(0 in value.shape for value in out.values()):
            continue  # two empty tensors at one offset are refused
        raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape)
        out[name] = torch.from_numpy(raw).to(getattr(torch, dtype))
    return out


@given(tensors=tensor_sets(), metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_safetensors_round_trip_byte_for_byte(
    tensors: dict[str, Any], metadata: dict[str, str] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("st")
    assume(tensors or metadata is None)  # for these the library writes a header that is no JSON
    try:
        safetensors_torch.save_file(tensors, folder / "theirs", metadata)
    except UnicodeEncodeError:
        return  # a lone surrogate
    read = read_safetensors(folder / "theirs")
    assert {name: bits(value).tobytes() for name, value in tensors.items()} == {
        name: tensor.array.tobytes() for name, tensor in read.items()
    }
    save_safetensors(folder / "ours", dict(read), read.metadata if metadata is not None else None)
    ours, theirs = (folder / "ours").read_bytes(), (folder / "theirs").read_bytes()
    if metadata is None or len(metadata) < 2:  # the library writes a larger map in no fixed order
        assert ours == theirs
    again = safetensors_torch.load_file(folder / "ours")
    assert {name: bits(value).tobytes() for name, value in again.items()} == {
        name: bits(value).tobytes() for name, value in tensors.items()
    }


def test_save_numpy_arrays_of_any_layout(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"t": base.T, "s": base[::2, ::3], "big": base.astype(">f4"), "f": np.asfortranarray(base)}
    save_safetensors(tmp_path / "m", arrays)
    read = read_safetensors(tmp_path / "m")
    assert all(np.array_equal(read[name].array, value) for name, value in arrays.items())


def test_save_keeps_bfloat16(tmp_path: Path) -> None:
    tensor = Tensor("a", "bfloat16", (3,), np.array([0x3F80, 0xC000, 0x7FC0], np.uint16))
    save_safetensors(tmp_path / "m", {"a": tensor})
    loaded = safetensors_torch.load_file(tmp_path / "m")["a"]
    assert loaded.dtype == torch.bfloat16
    assert loaded[:2].tolist() == [1.0, -2.0]


def test_save_refuses_what_the_format_lacks(tmp_path: Path) -> None:
    for bad in ({"a": np.zeros(2, np.longdouble)}, {"": np.zeros(2)}, {"__metadata__": np.zeros(2)}):
        with pytest.raises(InvalidRequest):
            save_safetensors(tmp_path / "m", bad)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_safetensors(tmp_path / "m", {"a": np.zeros(2, np.float32)})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match="space"):
        save_safetensors(path, {"a": np.ones(2, np.float32)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_a_header_of_odd_length_gives_unaligned_views(tmp_path: Path) -> None:
    """The released GPT-2 has one; `contiguous` then copies, and only then."""
    header, data = good_safetensors()
    text = json.dumps(header).encode()
    text += b" " * ((1 - len(text)) % 4)
    (tmp_path / "odd").write_bytes(safetensors_file(text, data))
    (tmp_path / "even").write_bytes(safetensors_file(header, data))
    odd, even = open_weights(tmp_path / "odd")["a"], open_weights(tmp_path / "even")["a"]
    assert not odd.array.flags.aligned
    assert even.array.flags.aligned
    assert odd.contiguous().flags.aligned
    assert np.array_equal(odd.contiguous().view(np.uint32), even.array.view(np.uint32))
    assert even.contiguous() is even.array


def test_widening_is_exact_for_every_16_bit_pattern() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    for dtype, array in (("bfloat16", patterns), ("float16", patterns.view(np.float16))):
        wide = Tensor("a", dtype, (1 << 16,), array).to_float32()
        theirs = torch.from_numpy(patterns.view(np.int16)).view(FLOATS[dtype]).float().numpy()
        assert np.array_equal(wide, theirs, equal_nan=True)
    with pytest.raises(WeightsError, match="int64"):
        Tensor("a", "int64", (1,), np.zeros(1, np.int64)).to_float32()


def test_arrays_outlive_their_weights(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "m", tiny_arrays())
    weights = (
        open_weights(tmp_path, TINY)
        if (tmp_path / "model.safetensors").exists()
        else open_weights(tmp_path / "m")
    )
    array = weights["wte.weight"].array
    weights.close()
    assert array[0, 1] == np.float32(1 / 1024)
    assert not weights
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


# What to open


def test_a_directory_prefers_the_usual_names(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(1, np.float32)})
    torch.save({"b": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert list(open_weights(tmp_path)) == ["a"]
    (tmp_path / "model.safetensors").unlink()
    assert list(open_weights(tmp_path)) == ["b"]


def test_a_directory_with_one_unusual_file(tmp_path: Path) -> None:
    torch.save({"b": torch.zeros(1)}, tmp_path / "ckpt.pt")
    torch.save({"lr": 1.0}, tmp_path / "optimizer.pt")
    (tmp_path / "notes.bin").write_bytes(b"nothing of this kind")
    assert list(open_weights(tmp_path)) == ["b"]
    torch.save({"c": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"ckpt\.pt, other\.pt"):
        open_weights(tmp_path)


def test_no_model_directory(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(ModelNotFound, match=r"not a model directory.*README\.md"):
        open_weights(tmp_path)
    with pytest.raises(ModelNotFound, match="no such file"):
        open_weights(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs"),
        (b"GGUF\x03\x00\x00\x00" + bytes(32), "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(32), "HDF5"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\x1f\x8b\x08" + bytes(32), "gzip"),
        (b"\x80\x04\x95" + bytes(32), "pickle"),
        (b"hello, world, this is some text", "no checkpoint"),
        (b"", "empty"),
    ],
)
def test_strangers_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptFile, match=says):
        open_weights(tmp_path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.bin")
    with pytest.raises(WeightsError, match="regular"):
        open_weights(tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=r"regular|opened"):
        open_weights("/dev/zero")
