"""A directory appears whole or not at all, and never over another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpt2.cards import new_directory, read_card, write_card
from gpt2.errors import CorruptFile, InvalidRequest


def test_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "model"
    with new_directory(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["x"]
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_or_not_at_all(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_directory(tmp_path / "model") as folder:
            (folder / "x").write_text("1")
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_never_over_another(tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "x").touch()
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    for target in (full, file, link):
        with pytest.raises(InvalidRequest, match="there already"), new_directory(target):
            pytest.fail("must refuse before any work is done")

    def overtaken() -> None:
        with new_directory(tmp_path / "late") as folder:
            (folder / "x").touch()
            (tmp_path / "late").touch()

    with pytest.raises(InvalidRequest, match="there already"):
        overtaken()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full", "late", "link"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    with new_directory(target) as folder:
        (folder / "x").touch()
    assert os.listdir(target) == ["x"]


def test_cards_in_and_out(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    write_card(tmp_path, {"source": {"name": "ä"}, "x": 0.1})
    assert read_card(tmp_path) == {"card": 1, "source": {"name": "ä"}, "x": 0.1}
    for text in (b"", b"[]", b"{}", b'{"card": 2}', b"\xff", b"[" * 100_000, b" " * (1 << 21)):
        (tmp_path / "card.json").write_bytes(text)
        with pytest.raises(CorruptFile):
            read_card(tmp_path)
