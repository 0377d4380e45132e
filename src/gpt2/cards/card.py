"""card.json: written beside a model, read back strictly.

A JSON object. "card" is the number of this form, 1; "source" names what the model was made from, with the
SHA-256 of its files; "files" are those of the model itself, the card excepted (weights/fingerprint.py); the
rest says what was done and measured. No dates: the same work gives the same bytes. Measures nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.errors import CorruptFile, WeightsError

CARD = "card.json"
FORM = 1
_MAX_BYTES = 1 << 20


def write_card(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write `facts` as card.json into `folder`, which is not yet in use (see new_directory)."""
    text = json.dumps({"card": FORM, **facts}, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    target = folder / CARD
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WeightsError("the card cannot be written", where=str(target), got=error.strerror) from None
    return target


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a model directory, None where there is none. Raises CorruptFile."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CorruptFile("the card is too large", where=str(path), expected=f"{_MAX_BYTES:,} bytes")
        facts = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError("the card cannot be read", where=str(path), got=error.strerror) from None
    except (ValueError, RecursionError):
        raise CorruptFile("the card is no JSON", where=str(path)) from None
    if not isinstance(facts, dict) or facts.get("card") != FORM:
        raise CorruptFile('the card has no "card": 1', where=str(path), likely="a newer gpt2 wrote it")
    return facts
