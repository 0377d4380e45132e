"""save_torch: PyTorch, transformers and our own reader get back what was written, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2 import errors
from gpt2.weights import open_weights, save_torch
from gpt2.weights.torch_zip import read_torch_zip

ARRAYS = {
    "wte.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -2.25], dtype=np.float16),
    "scalar": np.array(3, dtype=np.int64),
    "empty": np.empty((0, 5), dtype=np.float32),
    "flags": np.array([True, False]),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "na\u00efve": np.array([7], dtype=np.int8),
}


def test_torch_reads_what_we_write(tmp_path: Path) -> None:
    import torch

    read = torch.load(save_torch(tmp_path / "a.bin", ARRAYS), weights_only=True)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].numpy().dtype == array.dtype
        assert np.array_equal(read[name].numpy(), array), name


def test_we_read_what_we_write_bfloat16_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    import torch

    original = {name: tensor.to(torch.bfloat16) for name, tensor in _state(tiny_checkpoint).items()}
    torch.save(original, tmp_path / "theirs.bin")
    with read_torch_zip(tmp_path / "theirs.bin") as theirs:
        save_torch(tmp_path / "ours.bin", theirs)
        with read_torch_zip(tmp_path / "ours.bin") as ours:
            assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {
                n: (t.dtype, t.shape) for n, t in theirs.items()
            }
            assert all(np.array_equal(ours[name].array, theirs[name].array) for name in theirs)
    read = torch.load(tmp_path / "ours.bin", weights_only=True)
    assert all(torch.equal(read[name], original[name]) for name in original)


def _state(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_transformers_loads_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    with open_weights(tiny_checkpoint) as weights:
        save_torch(tmp_path / "pytorch_model.bin", weights)
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        ours, theirs = (
            GPT2LMHeadModel.from_pretrained(d).eval()(ids).logits for d in (tmp_path, tiny_checkpoint)
        )
    assert torch.equal(ours, theirs)


def test_what_torch_lacks_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="complex64"):
        save_torch(tmp_path / "a.bin", {"x": np.zeros(2, dtype=np.complex64)})
    with pytest.raises(errors.WeightsError, match="cannot be written"):
        save_torch(tmp_path / "nowhere" / "a.bin", ARRAYS)
    assert list(tmp_path.iterdir()) == []
