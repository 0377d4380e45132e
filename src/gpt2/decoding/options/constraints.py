"""Words that a text must contain, for constrained beam search: how a caller gives them, and the one form in
which they are kept.

The classes are those of transformers 4 by name and argument, but plain values: how far a text has come in
fulfilling them is in constrained.py. Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Phrase: TypeAlias = tuple[int, ...]

Word: TypeAlias = tuple[Phrase, ...]
"""The forms of one word, any of which will do."""


@dataclass(frozen=True, slots=True, init=False)
class PhrasalConstraint:
    """These tokens must occur side by side, in this order."""

    token_ids: Phrase

    def __init__(self, token_ids: Sequence[int]) -> None:
        object.__setattr__(self, "token_ids", _phrase(token_ids))


@dataclass(frozen=True, slots=True, init=False)
class DisjunctiveConstraint:
    """One of these phrases must occur. None may be the beginning of another one."""

    token_ids: Word

    def __init__(self, nested_token_ids: Sequence[Sequence[int]]) -> None:
        object.__setattr__(self, "token_ids", _word(nested_token_ids))


def words(value: Any) -> tuple[Word, ...]:
    """The words that are asked for by `force_words_ids` or `constraints`.

    Each item is a phrase (a list of ids), several forms of one word (a list of lists), or an object with
    `token_ids`, which holds one of these; a text is read as JSON. Raises ValueError or TypeError.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise TypeError
    read = [json.loads(item) if isinstance(item, str) else item for item in value]
    return tuple(_word(getattr(item, "token_ids", item)) for item in read)


def _word(value: Any) -> Word:
    items = _items(value)
    forms = [_phrase(item) for item in items] if isinstance(items[0], (list, tuple)) else [_phrase(items)]
    for i, form in enumerate(forms):
        # Which of the two would be complete could not be told.
        if any(other[: len(form)] == form for j, other in enumerate(forms) if j != i):
            raise ValueError
    return tuple(forms)


def _phrase(value: Any) -> Phrase:
    for id in (items := _items(value)):
        if isinstance(id, (str, bytes, bool)) or int(id) != id or not 0 <= id < 2**31:
            raise ValueError
    return tuple(int(id) for id in items)


def _items(value: Any) -> list[Any]:
    """At least one."""
    if isinstance(value, (str, bytes)) or not (items := list(value)):
        raise ValueError
    return items
