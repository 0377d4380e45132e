"""Loading: every file format and dtype gives one model; what does not fit together is an error that says
so."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2
from checkpoints import random_gpt2
from gpt2 import errors
from gpt2.config import GPT2Config
from gpt2.engine.tensors import as_dtype
from gpt2.weights import expected_shapes, save_safetensors
from machine import SANITIZED


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_every_format_is_the_same_model(tiny_checkpoint: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    expected = gpt2.load(tiny_checkpoint).logits([1, 2, 3])
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert np.array_equal(gpt2.load(folder).logits([1, 2, 3]), expected)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert np.array_equal(gpt2.load(folder).logits([1, 2, 3]), expected)
    (folder / "pytorch_model.bin").unlink()
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    save_file(bare, folder / "model.safetensors")
    assert np.array_equal(gpt2.load(folder).logits([1, 2, 3]), expected)
    assert np.array_equal(gpt2.load(folder / "model.safetensors").logits([1, 2, 3]), expected)


def test_tensors_may_begin_at_any_byte(folder: Path, tiny_checkpoint: Path, isa: str) -> None:
    """The released GPT-2 files have a header of odd length, so that no float32 in them is aligned."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].rstrip(b" ")
    header += b" " * (1 if len(header) % 2 == 0 else 0)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    expected = gpt2.load(tiny_checkpoint, isa=isa).logits([1, 2, 3])
    assert np.array_equal(gpt2.load(folder, isa=isa).logits([1, 2, 3]), expected)
    with gpt2.open_weights(folder) as weights:
        tensor = weights["wte.weight"]
        assert not tensor.array.flags.aligned
        assert np.shares_memory(as_dtype(tensor, "float32"), tensor.array)  # mapped, not copied


MEMORY = """
import sys
import gpt2

def megabytes(field):
    status = open("/proc/self/status").read()
    return int(status.split(field + ":")[1].split()[0]) / 1024

gpt2.load()
before = megabytes("VmRSS")
model = gpt2.load(sys.argv[1], weights=sys.argv[2], cache_bytes=1 << 24)
print(megabytes("VmHWM") - before, megabytes("VmRSS") - before)
assert len(model.logits([1, 2, 3])) == 3
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps freed memory")
def test_a_file_is_not_in_memory_beside_what_is_made_of_it(tmp_path: Path) -> None:
    """As parts of the file's 87 MB: float32 is packed (1), bfloat16 narrowed and then packed (1/2 + 1/2)."""
    config = GPT2Config(vocab_size=2000, n_positions=64, n_embd=512, n_layer=6, n_head=8)
    arrays = {name: np.ones(shape, np.float32) for name, shape in expected_shapes(config).items()}
    save_safetensors(tmp_path / "model.safetensors", arrays, {"format": "pt"})
    config.save(tmp_path)
    size = sum(array.nbytes for array in arrays.values()) / 2**20
    # Room beside that: activations (256 rows: 8 MB), rows of the embeddings (4 MB) and one matrix (8 MB).
    for weights, peak, stays in (("float32", 1.0, 1.0), ("bfloat16", 1.0, 0.5)):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path), weights], capture_output=True, text=True, check=True
        )
        at_most, at_rest = (float(number) for number in done.stdout.split())
        assert at_most < peak * size + 25, weights
        assert at_rest < stays * size + 20, weights


def test_without_a_config_the_shape_is_inferred(tmp_path: Path) -> None:
    model = random_gpt2(n_embd=128, n_head=2, n_layer=2, n_positions=40, vocab_size=99)
    model.save_pretrained(tmp_path)
    expected = gpt2.load(tmp_path).logits([1, 2])
    (tmp_path / "config.json").unlink()
    assert np.array_equal(gpt2.load(tmp_path).logits([1, 2]), expected)


def test_a_vocabulary_that_does_not_fit_the_embedding(folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text())
    vocab["<|extra|>"] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(gpt2.Error, match="270"):
        gpt2.load(folder)


def test_a_larger_embedding_is_padding(tmp_path: Path, tiny_checkpoint: Path) -> None:
    random_gpt2(n_embd=16, n_head=2, n_layer=1, n_positions=40, vocab_size=300).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tiny_checkpoint / name, tmp_path)
    lm = gpt2.load(tmp_path)
    assert len(lm.generate("a", seed=1, max_new_tokens=30, ignore_eos=True).tokens) == 30  # type: ignore[union-attr]
    assert lm.next_tokens("a", n=300)


def test_without_a_tokenizer_only_ids_are_prompts(folder: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    lm = gpt2.load(folder)
    assert len(lm.generate([1, 2], seed=1, max_new_tokens=3, ignore_eos=True).tokens) == 3  # type: ignore[union-attr]
    with pytest.raises(errors.TokenizerError, match="no tokenizer"):
        lm.score("text")
    with pytest.raises(gpt2.Error, match="no tokenizer"):
        lm.generate("text")
    with pytest.raises(errors.InvalidRequest, match="stop strings"):
        lm.generate([1], stop="x")


def test_config_and_weights_that_disagree(folder: Path) -> None:
    edit_config(folder, n_embd=60)
    with pytest.raises(errors.WeightsError, match=r"wte\.weight.*\[269, 48\].*\[269, 60\]"):
        gpt2.load(folder)
    edit_config(folder, n_embd=48, n_layer=3)
    with pytest.raises(errors.WeightsError, match=r"h\.2\."):
        gpt2.load(folder)
    edit_config(folder, n_layer=2, activation_function="mish")
    with pytest.raises(errors.ConfigError, match="activation_function"):
        gpt2.load(folder)


def test_truncated_files_and_strangers(folder: Path, tmp_path: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        (folder / "model.safetensors").write_bytes(data[:size])
        with pytest.raises(errors.WeightsError):
            gpt2.load(folder)
    with pytest.raises(errors.ModelNotFound):
        gpt2.load(tmp_path / "nothing" / "here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(gpt2.Error):
        gpt2.load(tmp_path / "empty")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2", True])
def test_wrong_threads(tiny_checkpoint: Path, threads: object) -> None:
    with pytest.raises(errors.InvalidRequest, match="threads"):
        gpt2.load(tiny_checkpoint, threads=threads)  # type: ignore[arg-type]


def test_wrong_weights_and_instruction_set(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.InvalidRequest, match="weights"):
        gpt2.load(tiny_checkpoint, weights="int3")  # type: ignore[arg-type]
    with pytest.raises(errors.EngineError, match="sse9"):
        gpt2.load(tiny_checkpoint, isa="sse9")
    monkeypatch.setenv("GPT2_ISA", "generic")
    assert gpt2.load(tiny_checkpoint).isa == "generic"
    monkeypatch.setenv("GPT2_ISA", "sse9")
    with pytest.raises(errors.EngineError, match="sse9"):
        gpt2.load(tiny_checkpoint)


def test_threads_may_be_pinned(folder: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    pinned = gpt2.load(folder, threads=2, cpus=mine)
    assert np.array_equal(pinned.logits([1, 2, 3]), gpt2.load(folder, threads=2).logits([1, 2, 3]))
    for wrong in ([], "0", [-1], [0.5], [2**20], [max(mine) + 4096]):
        with pytest.raises(errors.InvalidRequest, match="cpus"):
            gpt2.load(folder, threads=2, cpus=wrong)  # type: ignore[arg-type]
