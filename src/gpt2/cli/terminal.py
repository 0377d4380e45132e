"""What a stream can show: colour or none, and text that cannot command the terminal.

Plain ANSI in one place. NO_COLOR (no-color.org) turns colour off, FORCE_COLOR turns it on where stdout is not
a terminal; NO_COLOR wins. Knows nothing of models.
"""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Terminal:
    """How to write to `stream`. Asked once, when it is made; nothing is written here."""

    def __init__(self, stream: TextIO) -> None:
        self.is_terminal = stream.isatty()
        self.colour = _wants_colour(self.is_terminal)
        self.unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"

    def paint(self, text: str, style: str) -> str:
        """`text` in a style of _CODES, or as it is where there is no colour."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colour else text

    def highlight(self, text: str, background: int) -> str:
        """Black `text` on one of the terminal's 256 colours: legible on light and on dark themes."""
        return f"\x1b[38;5;16;48;5;{background}m{text}\x1b[0m" if self.colour else text

    def bar(self, share: float, width: int) -> str:
        """A bar for a share in [0, 1], at most `width` columns wide, in steps of an eighth of a column."""
        if not self.unicode:
            return "#" * round(share * width)
        whole, eighth = divmod(round(share * width * 8), 8)
        return "█" * whole + (_EIGHTHS[eighth] if eighth else "")

    def safe(self, text: str) -> str:
        """Text of a model for a terminal: control characters other than newline and tab are made visible.

        A model can write any byte, and a terminal obeys some. What goes to a file or a pipe is left as it is.
        """
        if not self.is_terminal or text.isprintable():
            return text
        return "".join(c if c in "\n\t" or not _is_control(c) else escape(c) for c in text)


def _wants_colour(is_terminal: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal and os.environ.get("TERM") != "dumb"


def _is_control(c: str) -> bool:
    return c < " " or "\x7f" <= c < "\xa0"


def escape(text: str) -> str:
    """One line, every character visible: \\n for a newline, \\x1b for a control character, \\ as \\\\."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
    return "".join(names.get(c) or (c if c.isprintable() else _code(c)) for c in text)


def _code(c: str) -> str:
    n = ord(c)
    return f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}"


def piece(token: bytes) -> str:
    """A token in quotes: its text, or its bytes (\\xe2) where it holds a part of a character only."""
    try:
        return f'"{escape(token.decode())}"'
    except UnicodeDecodeError:
        return '"' + "".join(chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}" for b in token) + '"'


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int) -> str:
    """`text` followed by spaces up to `width` columns."""
    return text + " " * (width - columns(text))
