"""pull, list, inspect: what they print; the hub itself is tested in tests/weights."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2.cli import pull as pull_command
from gpt2.errors import HubError
from gpt2.weights import hub
from gpt2.weights.hub_cache import CachedModel

Gpt2 = Callable[..., Any]


def test_pull_prints_the_directory(gpt2: Gpt2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(hub, "pull", lambda *args: calls.append(args) or tmp_path)
    done = gpt2("pull", "org/name", "--revision", "v1")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path}\n", "")
    assert calls == [("org/name", "v1", None)]  # no terminal, no progress


def test_pull_that_fails_prints_nothing_to_stdout(gpt2: Gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> Path:
        raise HubError("the disk is full", where="org/name")

    monkeypatch.setattr(hub, "pull", fails)
    done = gpt2("pull", "org/name")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("HubError: org/name: the disk is full")


def test_progress_is_one_line_that_changes_by_the_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    show = pull_command.progress()
    for done in range(0, 3_000_001, 1000):
        show(done, 3_000_000)
    written = stream.getvalue()
    assert "\n" not in written
    assert re.findall(r"(\d) of 3 MB", written) == ["0", "1", "2", "3"]


def test_list(gpt2: Gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        CachedModel("demo", None, 11_600_000, Path("/a"), ("config.json",)),
        CachedModel("org/name", "0" * 40, 548_000_000, Path("/b"), ("config.json",)),
    ]
    monkeypatch.setattr(hub, "list_models", lambda: models)
    assert gpt2("list").out.splitlines() == [
        "demo           11.6 MB  /a",
        "org/name      548.0 MB  /b",
    ]
    records = [json.loads(line) for line in gpt2("list", "--json").out.splitlines()]
    assert records[1] == {"id": "org/name", "revision": "0" * 40, "bytes": 548_000_000, "path": "/b"}


def test_inspect_says_all_that_the_issue_asks_for(gpt2: Gpt2, tiny_checkpoint: Path) -> None:
    done = gpt2("inspect", str(tiny_checkpoint))
    assert done.code == 0
    for part in ("2 layers, 48 wide, 3 heads of 16", "72,624", "269 entries", "float32", "bfloat16",
                 "h.*.attn.c_attn.weight", "48 x 144  x 2", "no problems found"):  # fmt: skip
        assert part in done.out, part
    every = gpt2("inspect", "--tensors", str(tiny_checkpoint)).out
    assert "h.0.attn.c_attn.weight" in every
    assert "h.1.attn.c_attn.weight" in every


def test_inspect_for_programs(gpt2: Gpt2, tiny_checkpoint: Path) -> None:
    record = json.loads(gpt2("inspect", "--json", str(tiny_checkpoint)).out)
    assert (record["parameters"], record["size"], record["problems"]) == (72_624, None, [])
    assert record["memory_bytes"] == {"float32": 290_496, "bfloat16": 145_248, "cache": 2 * 2 * 64 * 48 * 4}
    assert sum(tensor["bytes"] for tensor in record["tensors"]) == 290_496


def test_inspect_of_one_file_without_a_config_guesses_and_says_so(gpt2: Gpt2, tmp_path: Path) -> None:
    alone = tmp_path / "weights"
    alone.write_bytes((hub.bundled() / "model.safetensors").read_bytes())
    shape = re.compile(r"shape +(.*)")
    done = gpt2("inspect", str(alone))
    assert "note: " in done.out
    assert shape.findall(done.out) == shape.findall(gpt2("inspect", "demo").out)


def test_inspect_knows_the_bundled_model_by_name(gpt2: Gpt2) -> None:
    done = gpt2("inspect", "demo")
    assert done.code == 0
    assert "no problems found" in done.out
