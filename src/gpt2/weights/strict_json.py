"""JSON from files that nobody has vouched for: safetensors headers and shard indexes.

Stricter than the json module: no duplicate keys, no NaN, no lone surrogates, no bare value, bounded size.
Every fault is a CorruptFile that names the file. Knows nothing of what the JSON means.
"""

from __future__ import annotations

import json
from typing import Any

from gpt2.errors import CorruptFile


class _RefusedError(ValueError):
    """A fault that only we object to; becomes a CorruptFile."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"the key {clip(key)} occurs twice")
            seen.add(key)
    return out


def _constant(name: str) -> Any:
    raise _RefusedError(f"{name} is not a JSON number")


def clip(text: object, limit: int = 80) -> str:
    """`text` quoted for a message: no control characters, no surrogates, at most `limit` characters."""
    quoted = ascii(text) if not isinstance(text, str) else json.dumps(text[: limit + 1])
    return quoted if len(quoted) <= limit else quoted[: limit - 3] + "..."


def load_object(data: bytes, *, where: str, part: str) -> dict[str, Any]:
    """Parse `data` as one JSON object. `part` names it in messages, as in "the header"."""
    try:
        text = data.decode("utf-8")
        out = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(out, ensure_ascii=False).encode("utf-8")  # a lone surrogate fails here
    except UnicodeDecodeError as error:
        raise CorruptFile(
            f"{part} is not UTF-8", where=where, got=f"byte {error.start}: {error.reason}"
        ) from None
    except UnicodeEncodeError:
        raise CorruptFile(f"{part} has half of a surrogate pair", where=where) from None
    except _RefusedError as error:
        raise CorruptFile(f"{part}: {error}", where=where) from None
    except RecursionError:
        raise CorruptFile(f"{part} is nested too deeply", where=where) from None
    except ValueError as error:
        raise CorruptFile(f"{part} is not JSON", where=where, got=str(error)[:200]) from None
    if type(out) is not dict:
        raise CorruptFile(f"{part} is not a JSON object", where=where, got=type(out).__name__)
    return out
