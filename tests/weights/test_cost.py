"""What loading costs, and what it never touches."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from gpt2.config import KNOWN_SIZES
from gpt2.weights import expected_shapes, open_weights
from machine import ROOT
from weights import make_files

SOURCES = sorted((ROOT / "src" / "gpt2" / "weights").glob("*.py"))


def sparse_model(path: Path, name: str = "gpt2") -> None:
    """A checkpoint of a released size whose bytes are a hole in the file: it takes no room."""
    header, end = {}, 0
    for tensor, shape in expected_shapes(KNOWN_SIZES[name]).items():
        size = 4
        for dim in shape:
            size *= dim
        header[tensor] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    head = make_files.safetensors_file(header, b"")
    path.write_bytes(head)
    with open(path, "r+b") as file:
        file.truncate(len(head) + end)


def test_opening_124m_takes_less_than_10_ms(tmp_path: Path) -> None:
    sparse_model(tmp_path / "m")
    spent = []
    for _ in range(5):
        begun = time.process_time()
        with open_weights(tmp_path / "m", KNOWN_SIZES["gpt2"]) as weights:
            spent.append(time.process_time() - begun)
            assert weights.nbytes == 4 * 124_439_808
    assert min(spent) < 0.010


def test_the_import_is_light() -> None:
    code = """
import sys, time
import numpy, json, pathlib, dataclasses, difflib
begun = time.process_time()
import gpt2.weights, gpt2.weights.hub
spent = time.process_time() - begun
heavy = {"torch", "safetensors", "huggingface_hub", "tempfile", "hashlib", "tqdm", "asyncio", "zipfile"}
print(spent, *sorted(heavy & (set(sys.modules) - before)))
"""
    # numpy itself brings some of these; only what the weights add counts.
    code = code.replace("begun = ", "before = set(sys.modules)\nbegun = ", 1)
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert all(len(run) == 1 for run in runs), runs
    assert min(float(run[0]) for run in runs) < 0.060, "20 ms where the machine is idle"


def test_there_is_no_other_path() -> None:
    """No pickle, no torch, no exec: the interpreter of torch_pickle.py is the only reader of pickles (R3)."""
    forbidden = re.compile(
        r"^\s*(import|from)\s+(pickle|_pickle|torch|marshal|shelve|dill|zipfile|subprocess|ctypes)\b"
        r"|\b(exec|eval|compile|__import__)\(|weights_only|import_module",
        re.MULTILINE,
    )
    for path in SOURCES:
        text = re.sub(r"re\.compile\(", "", path.read_text(encoding="utf-8"))
        found = forbidden.search(text)
        writes_only = path.name == "torch_write.py" and found is not None and found[2] == "zipfile"
        assert found is None or writes_only, f"{path.name}: {found[0].strip()}"
        if writes_only:
            assert re.findall(r"zipfile\.\w+\([^)]*", text) == [
                'zipfile.ZipFile(file, "w", zipfile.ZIP_STORED'
            ]
    assert len(SOURCES) > 10


def test_the_pages_state_the_limits() -> None:
    from gpt2.weights import safetensors, torch_pickle

    page = (ROOT / "docs" / "formats" / "safetensors.md").read_text(encoding="utf-8")
    assert safetensors.MAX_HEADER == 1 << 20
    assert "| a long header | 1 MiB" in page
    assert f"| many tensors | {safetensors.MAX_TENSORS:,} |" in page
    page = (ROOT / "docs" / "formats" / "torch-bin.md").read_text(encoding="utf-8")
    assert f"{torch_pickle.MAX_STEPS:,} steps and {torch_pickle.MAX_PICKLE >> 20} MiB" in page
    for module, name in torch_pickle._ALLOWED:
        assert name in page or name.endswith("Storage"), f"{module}.{name} is not on the page"
