"""What values an option may have: functions that turn a given value into the one that is stored.

Each raises ValueError or TypeError for what it does not take; the row of the option (options.py) knows what
to say then. Nothing here knows an option.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

# float32 is the arithmetic of the sampler: smaller or larger numbers would become 0 or infinity there.
LEAST: Final = 1.18e-38
MOST: Final = 3.4e38


def shown(value: Any) -> str:
    """A value for an error message: short, and never a whole prompt."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[Any], float]:
    """Accepts a finite number in [low, high], or (low, high] if `open_low`."""

    def accept(value: Any) -> float:
        result = float(_not_text(value))
        if not math.isfinite(result) or not low <= result <= high or (open_low and result == low):
            raise ValueError
        return result

    return accept


def integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    """Accepts a whole number in [low, high]; 3.0 counts as one, 3.5 and True do not."""

    def accept(value: Any) -> int:
        result = int(_not_text(value))
        if result != value or result < low or (high is not None and result > high):
            raise ValueError
        return result

    return accept


def optional(accept: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else accept(value)


def one_of(*names: str) -> Callable[[Any], str]:
    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return accept


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def strings(value: Any) -> tuple[str, ...]:
    """Accepts one string or several; none may be empty, since that would stop before the first character."""
    items = (value,) if isinstance(value, str) else tuple(() if value is None else value)
    return tuple(some_text(item) for item in items)


def some_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return text(value)


def schema(value: Any) -> str:
    """Accepts a JSON schema as an object, as JSON text, or as a class of pydantic's; kept is the text, with
    the keys in their order."""
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        if not isinstance(schema, Mapping):
            raise TypeError
        return text(json.dumps(dict(schema), ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise ValueError from None


def ids(value: Any) -> tuple[int, ...]:
    accept = integer(0, 2**31 - 1)
    items = value if isinstance(value, (tuple, list, set, frozenset)) else ([] if value is None else [value])
    return tuple(dict.fromkeys(accept(item) for item in items))


def text(value: Any) -> str:
    """Accepts a string that UTF-8 can write: half a surrogate pair is no character (UnicodeEncodeError)."""
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def id_sequence(value: Any) -> tuple[int, ...] | None:
    """Accepts ids in their order, or None; a text is read as numbers with commas."""
    if isinstance(value, str):
        value = [int(item) for item in value.split(",")]
    accept = integer(0, 2**31 - 1)
    return None if value is None else tuple(accept(item) for item in value)


def early_stopping(value: Any) -> bool | str:
    value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if value != "never":
        return boolean(value)
    return "never"


def dola_layers(value: Any) -> str | tuple[int, ...] | None:
    if value in (None, "low", "high"):
        return value  # type: ignore[no-any-return]
    layers = id_sequence(value)
    if not layers:
        raise ValueError
    return layers


def _not_text(value: Any) -> Any:
    """What may be a number: no text, no array, and neither True nor numpy's or PyTorch's."""
    if isinstance(value, (str, bytes, bool)) or getattr(value, "ndim", 0) != 0:
        raise TypeError
    if str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError
    return value


def bias(value: Any) -> float:
    """Accepts a finite number, or -inf for a ban."""
    result = float(_not_text(value))
    if math.isnan(result) or result == math.inf:
        raise ValueError
    return result


def biases(value: Any) -> tuple[tuple[int, float], ...]:
    """Accepts {id: bias}, also with ids as text (as JSON has them), or pairs."""
    accept = integer(0, 2**31 - 1)
    items = value.items() if isinstance(value, Mapping) else (() if value is None else value)
    pairs = ((int(id) if isinstance(id, str) else id, one) for id, one in items)
    return tuple({accept(id): bias(one) for id, one in pairs}.items())


def sequences(value: Any) -> tuple[tuple[int, ...], ...]:
    """Accepts a list of lists of ids, none of them empty."""
    return tuple(dict.fromkeys(_sequence(one) for one in (() if value is None else _listed(value))))


def _sequence(value: Any) -> tuple[int, ...]:
    accept = integer(0, 2**31 - 1)
    found = tuple(accept(item) for item in _listed(value))
    if not found:
        raise ValueError
    return found


def sequence_biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Accepts {(id, ...): bias}, or a list of [[id, ...], bias]."""
    items = value.items() if isinstance(value, Mapping) else (() if value is None else _listed(value))
    return tuple({_sequence(ids): bias(one) for ids, one in items}.items())


def positions(value: Any) -> tuple[tuple[int, int], ...]:
    """Accepts {position: id}, or a list of [position, id]."""
    accept = integer(0, 2**31 - 1)
    items = value.items() if isinstance(value, Mapping) else (() if value is None else _listed(value))
    pairs = ((int(at) if isinstance(at, str) else at, id) for at, id in items)
    return tuple({accept(at): accept(id) for at, id in pairs}.items())


def decay(value: Any) -> tuple[int, float] | None:
    """Accepts [start, factor]."""
    if value is None:
        return None
    start, factor = _listed(value)
    return integer(0, 2**31 - 2)(start), number(0.0, 1e6, open_low=True)(factor)


def names_of(known: Iterable[str]) -> Callable[[Any], tuple[str, ...]]:
    """Accepts several of these names, none twice, as a list or in one text with ; or , between them."""
    allowed = frozenset(known)

    def accept(value: Any) -> tuple[str, ...]:
        items = re.split(r"[\s,;]+", value.strip(" ,;")) if isinstance(value, str) else tuple(value or ())
        if not allowed.issuperset(items) or len(set(items)) != len(items):
            raise ValueError
        return tuple(items)

    return accept


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError
    return value
