"""Fuzz the safetensors reader: good files with lies at every level of the format.

    python tests/weights/fuzz_safetensors.py --seconds 60
    python tests/weights/fuzz_safetensors.py --inputs 100000 --seed 7 --oracle

With --oracle, whatever is accepted must be read equally by the safetensors library: we may be stricter, never
laxer.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpt2.weights import Weights
from gpt2.weights.safetensors import DTYPES
from weights.fuzzing import INTERESTING, flip, main
from weights.make_files import good_safetensors, tiny_arrays

ODD_VALUES: list[Any] = [
    None, True, False, "", "F32", [], {}, [[]], 1.5, -0.0, 1e308, "\ud800", "\0", "x" * 600, {"a": 1},
    [0, 0], [1] * 9,
]  # fmt: skip


def tiny_model() -> tuple[dict[str, Any], bytes]:
    header, data = {}, b""
    for name, array in tiny_arrays().items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    return header, data


MODEL = tiny_model()


def make(rng: random.Random) -> bytes:
    """One input: a good file, changed one to four times."""
    header, data = good_safetensors() if rng.random() < 0.7 else (json.loads(json.dumps(MODEL[0])), MODEL[1])
    if rng.random() < 0.3:
        header["__metadata__"] = {"format": "pt"}
    for _ in range(rng.randrange(0, 4)):
        data = change(rng, header, data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=rng.random() < 0.9)
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        raw = flip(rng, raw, rng.randrange(1, 4))
    if rng.random() < 0.1:
        raw = raw.replace(
            rng.choice([b":", b",", b"[", b"0", b'"']), rng.choice([b"", b"::", b"[", b"-", b"1e9"]), 1
        )
    raw += b" " * (-len(raw) % 8 if rng.random() < 0.9 else rng.randrange(9))
    length = len(raw)
    if rng.random() < 0.08:
        length = (length + rng.choice([-8, -1, 1, 7, 8])) if rng.random() < 0.5 else rng.choice(INTERESTING)
    out = struct.pack("<Q", length % (1 << 64)) + raw + data
    if rng.random() < 0.1:
        out = flip(rng, out, rng.randrange(1, 4))
    if rng.random() < 0.05:
        out = out[: rng.randrange(len(out) + 1)]
    return out


def odd_value(rng: random.Random) -> Any:
    """A copy: an input must not depend on what earlier ones did to a list, nor hold itself."""
    return copy.deepcopy(rng.choice(ODD_VALUES))


def change(rng: random.Random, header: dict[str, Any], data: bytes) -> bytes:
    """Change the header in place; returns the data, perhaps longer or shorter."""
    name = rng.choice(list(header) or ["a"])
    entry = header.get(name)
    match rng.randrange(12):
        case 0 if isinstance(entry, dict):
            entry[rng.choice(["dtype", "shape", "data_offsets", "more"])] = odd_value(rng)
        case 1 if isinstance(entry, dict):
            entry["dtype"] = rng.choice([*DTYPES, "F4", "f32", "F128"])
        case 2 | 3 if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
            shape = entry["shape"]
            shape.insert(rng.randrange(len(shape) + 1), rng.choice([*INTERESTING, 1.0, True, "1", None]))
        case 4 if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
            entry["shape"] = (
                [rng.choice(INTERESTING) for _ in entry["shape"]] if rng.random() < 0.5 else [24, 1]
            )
        case 5 | 6 if isinstance(entry, dict) and isinstance(entry.get("data_offsets"), list):
            offsets = [*entry["data_offsets"], 0, 0][:2]
            at = rng.randrange(2)
            step = rng.choice([-8, -4, -1, 1, 4, 8])
            moved = offsets[at] + step if isinstance(offsets[at], int) else step
            offsets[at] = moved if rng.random() < 0.7 else rng.choice(INTERESTING)
            entry["data_offsets"] = offsets
        case 7:
            header.pop(name, None)
        case 8:
            header[rng.choice(["d", "", "a\0", "__metadata__", "h.0.attn.bias", "transformer.a", "é"])] = (
                entry
            )
        case 9:
            size = rng.randrange(0, 3)
            span = [len(data), len(data) + 4 * size]
            header[f"n{rng.randrange(9)}"] = {"dtype": "F32", "shape": [size], "data_offsets": span}
            return data + bytes(4 * size)
        case 10:
            header[name] = odd_value(rng)
        case 11:
            return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.5 else data + rng.randbytes(4)
    return data


def same_as_the_library(path: Path, weights: Weights) -> None:
    """The library accepts the file, too, and gives the same bytes under the same names."""
    import safetensors

    theirs = dict(safetensors.deserialize(path.read_bytes()))
    names = {name.removeprefix("transformer."): name for name in theirs}
    if not set(weights) <= set(names):
        raise AssertionError(f"names that the library does not see: {set(weights) - set(names)}")
    for name, tensor in weights.items():
        other = theirs[names[name]]
        if bytes(other["data"]) != tensor.array.tobytes() or list(other["shape"]) != list(tensor.shape):
            raise AssertionError(f"the library reads {name!r} differently")


if __name__ == "__main__":
    main(make, "fuzz safetensors", same_as_the_library)
