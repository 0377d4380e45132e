"""Every file that lies is refused: by a typed error, at once, and without running, importing or opening
anything.

The files are hostile_safetensors.py and hostile_torch.py, one named function each.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.errors import CorruptFile, UnsafeFile, WeightsError
from gpt2.weights import open_weights
from machine import ROOT
from weights import hostile_safetensors, hostile_torch

ALL = {**hostile_safetensors.CASES, **hostile_torch.CASES}
LIMIT = 0.100
"""Seconds of this process: what the neighbours do on a shared machine says nothing about the reader."""


def write(folder: Path, title: str) -> Path:
    """The file to open, and its companions, in a folder of their own."""
    made = ALL[title]()
    files = made if isinstance(made, dict) else {"model.bin": made}
    inner = folder / title
    inner.mkdir()
    for name, content in files.items():
        (inner / name).write_bytes(content)
    return inner / next(iter(files))


def test_there_are_enough() -> None:
    assert len(ALL) == len(hostile_safetensors.CASES) + len(hostile_torch.CASES)
    assert len(hostile_safetensors.CASES) >= 60
    assert len(hostile_torch.CASES) >= 60


@pytest.mark.parametrize("title", ALL)
def test_refused_at_once(title: str, tmp_path: Path) -> None:
    path = write(tmp_path, title)
    # A file that is broken may be called unsafe; one that wants to run code must be.
    kind = UnsafeFile if title in hostile_torch.ATTACKS else (CorruptFile, UnsafeFile)
    seconds = []
    gc.freeze()  # or a collection would walk through all that the other tests have imported
    for _ in range(3):
        begun = time.process_time()
        with pytest.raises(WeightsError) as caught:
            open_weights(path)
        seconds.append(time.process_time() - begun)
        if seconds[-1] <= LIMIT:
            break
    gc.unfreeze()
    assert min(seconds) <= LIMIT, f"refused only after {min(seconds) * 1000:.0f} ms"
    error = caught.value
    if title != "the_same_tensor_with_and_without_prefix":
        assert isinstance(error, kind), error
    assert str(path.parent) in str(error.where)
    assert len(str(error)) < 2000
    assert str(error).isascii() or title == "names_with_a_homoglyph"
    assert not set(str(error)) & {"\0", "\x1b"}


def test_nothing_is_run_imported_or_opened(tmp_path: Path) -> None:
    """Under an audit hook in a process of its own: the only events are those of mapping the named files."""
    paths = {title: str(write(tmp_path, title)) for title in ALL}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "weights" / "audited.py")],
        input=json.dumps(paths), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["control"] >= 2  # compile and exec: the hook sees what it should
    assert report["opened"] == len(ALL)
    assert report["events"] == {}
    assert report["torch"] is False
    assert not Path("/tmp/gpt2-was-here").exists()
