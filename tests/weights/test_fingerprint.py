"""One changed bit anywhere changes the fingerprint, and its file is named (R4)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from gpt2.errors import ModelNotFound
from gpt2.weights import fingerprint, save_safetensors
from weights.make_files import TINY, tiny_arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TINY.save(tmp_path)
    save_safetensors(tmp_path / "model.safetensors", tiny_arrays())
    return tmp_path


def test_is_sha256(folder: Path) -> None:
    found = fingerprint(folder)
    assert list(found.files) == ["config.json", "model.safetensors"]
    for name, value in found.files.items():
        assert value == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert fingerprint(folder / "config.json").files == {"config.json": found.files["config.json"]}


def test_a_thousand_flipped_bits(folder: Path) -> None:
    before, path = fingerprint(folder), folder / "model.safetensors"
    good = bytearray(path.read_bytes())
    generator = random.Random(4)
    for _ in range(1000):
        bad = bytearray(good)
        bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        path.write_bytes(bad)
        assert fingerprint(folder).changed(before) == ("model.safetensors",)
        assert fingerprint(folder).whole != before.whole
    path.write_bytes(good)
    assert fingerprint(folder) == before


def test_new_and_lost_files_count_and_the_card_does_not(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "card.json").write_text("{}")
    (folder / ".lock").write_text("")
    assert fingerprint(folder) == before
    (folder / "merges.txt").write_text("")
    (folder / "config.json").unlink()
    assert fingerprint(folder).changed(before) == ("config.json", "merges.txt")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        fingerprint(tmp_path / "gone")
