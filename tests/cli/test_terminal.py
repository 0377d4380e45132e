"""Colour on or off, and text that cannot command the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.cli.terminal import Terminal, columns, escape, pad, piece


class Stream(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._is_terminal, self._encoding = is_terminal, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "env", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: only when it is not empty
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_when_there_is_colour(
    is_terminal: bool, env: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal(Stream(is_terminal))
    assert terminal.colour is colour
    assert (terminal.paint("x", "red") == "x") is not colour


@given(st.text())
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = Terminal(Stream(True)).safe(text)
    assert not [c for c in shown if (c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0"]
    assert Terminal(Stream(False)).safe(text) == text


def test_an_escape_sequence_is_shown_not_obeyed() -> None:
    assert Terminal(Stream(True)).safe("a\x1b]0;owned\x07b") == "a\\x1b]0;owned\\x07b"


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_pieces_differ_when_their_bytes_do(a: bytes, b: bytes) -> None:
    assert piece(a).isprintable()
    if a != b and all(_is_text(raw) for raw in (a, b)):
        assert piece(a) != piece(b)


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.floats(0, 1), st.integers(1, 40))
def test_bars_are_as_long_as_their_share(share: float, width: int) -> None:
    bar = Terminal(Stream(True)).bar(share, width)
    assert abs(len(bar) - share * width) <= 1.0
    assert len(Terminal(Stream(True, "ascii")).bar(share, width)) == round(share * width)


def test_columns_of_wide_and_combining_characters() -> None:
    assert columns("日本") == 4
    assert columns("é") == 1
    assert pad("日", 4) == "日  "
