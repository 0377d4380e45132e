"""Checkpoints: whole or not there, the newest whole one is found, two processes never share a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.errors import CheckpointError, CorruptFile, FolderInUse
from gpt2.train import checkpoint
from gpt2.train.checkpoint import Store, read


def parts(step: int) -> dict[str, dict[str, Any]]:
    return {"model": {"w": np.full((3, 4), step, np.float32)}, "optimizer": {"m:w": np.arange(step + 1)}}


def filled(folder: Path, *steps: int, keep: int = 2) -> Store:
    store = Store(folder, keep=keep)
    folder.mkdir(exist_ok=True)
    for step in steps:
        store.save(step, parts(step), {"loss": 0.1 * step})
    return store


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    newest = filled(tmp_path, 3, 100).newest()
    assert newest is not None
    assert (newest.step, newest.facts) == (100, {"loss": 10.0})
    np.testing.assert_array_equal(newest.tensors("model")["w"].array, np.full((3, 4), 100, np.float32))
    np.testing.assert_array_equal(newest.tensors("optimizer")["m:w"].array, np.arange(101))
    assert Store(tmp_path / "nothing").newest() is None


def test_old_ones_go_and_named_best_weights_stay(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for step in (1, 2, 3, 4):
        if step in (1, 3):
            store.save(step, {"model": parts(step)["model"]}, {}, kind="best")
        store.save(step, parts(step), {"best_step": 1})
    assert store.steps() == [3, 4]
    assert store.steps("best") == [1]
    assert store.best(1).tensors("model")["w"].array[0, 0] == 1
    assert sorted(os.listdir(tmp_path)) == ["best-00000001", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "empty"])
def test_a_damaged_one_is_said_and_the_one_before_is_taken(name: str, harm: str, tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"cut": len(data) // 2, "empty": 0}.get(harm, len(data))])
    if harm == "gone":
        path.unlink()
    said: list[str] = []
    newest = Store(tmp_path, say=said.append).newest()
    assert newest is not None
    assert newest.step == 1
    assert len(said) == 1
    assert said[0].startswith("WARNING: the checkpoint of step 2 is damaged")
    assert (tmp_path / "step-00000002.damaged").is_dir(), "set aside, not deleted"


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    bits = np.random.default_rng(0)
    for path in sorted((tmp_path / "step-00000001").iterdir()):
        data = path.read_bytes()
        for place in bits.integers(0, len(data), 60):
            harmed = bytearray(data)
            harmed[place] ^= 1 << int(bits.integers(8))
            path.write_bytes(harmed)
            if path.name == "manifest.json" and _same_json(data, bytes(harmed)):
                continue  # white space of the manifest says nothing
            with pytest.raises(CorruptFile):
                read(path.parent)
        path.write_bytes(data)
    read(tmp_path / "step-00000001")


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    for folder in list(tmp_path.iterdir()):
        (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        Store(tmp_path).newest()


def test_what_a_killed_process_left_is_no_checkpoint_and_is_taken_away(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    for name in (".step-00000002.part", ".step-00000000.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    with Store(tmp_path).locked() as store:
        assert store.steps() == [1]
    assert sorted(os.listdir(tmp_path)) == ["lock", "step-00000001"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_refuses_loses_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it, each system call in turn, is test_faults.py; this shows the error."""
    store = filled(tmp_path, 1)

    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, call, refuse)
        with pytest.raises(CheckpointError, match="No space left on device") as error:
            store.save(2, parts(2), {})
    assert error.value.likely == "the newest checkpoint is that of step 1"
    assert os.listdir(tmp_path) == ["step-00000001"]
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gpt2.train.checkpoint import Store\n"
        f"with Store({str(tmp_path)!r}).locked():\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(FolderInUse, match=f"process {other.pid}"), Store(tmp_path).locked():
            pass
        other.kill()
        other.wait()
        with Store(tmp_path).locked():
            pass
        with Store(tmp_path).locked():
            pass
