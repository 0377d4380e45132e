"""The safetensors format: read strictly, written byte for byte as the format's own library writes it.

A file is an 8-byte little-endian length N, N bytes of JSON, then the tensors' bytes without gaps. The JSON
maps each name to {"dtype", "shape", "data_offsets": [begin, end)} and "__metadata__" to strings
(docs/formats/safetensors.md). Reading maps the file and makes one numpy view for each tensor; every length is
checked before it is believed, more strictly than the format demands (the page says where). Knows nothing of
GPT-2.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import CorruptFile, InvalidRequest, WeightsError
from gpt2.weights.disk import sync_folder
from gpt2.weights.strict_json import clip, load_object
from gpt2.weights.tensor import NUMPY_OF, Array, MappedFile, Tensor, Weights

# The largest GPT-2 has 580 tensors and a header of 60 kB; these leave room and keep a hostile header cheap.
MAX_HEADER = 1 << 20
MAX_TENSORS = 10_000
_MAX_NAME = 512
_MAX_DIMS = 8
_MAX_BYTES = 1 << 62
_FIELDS = {"dtype", "shape", "data_offsets"}

DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0",
}  # fmt: skip
"""The format's dtype names and ours. Dtypes of less than a byte (F4, F6) are refused."""

_NAME_OF = {ours: theirs for theirs, ours in DTYPES.items()}
# The order in which the format's library lays tensors out: widest elements first, then by name.
_RANK = {name: rank for rank, name in enumerate(
    ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32", "U32", "F32",
     "C64", "F64", "I64", "U64")
)}  # fmt: skip


def read_safetensors(path: str | os.PathLike[str]) -> Weights:
    """Map one file. Raises CorruptFile, which names the file, the tensor and the field."""
    file = MappedFile(path)
    try:
        header, start = _read_header(file)
        where = str(file.path)
        metadata = _check_metadata(header.pop("__metadata__", {}), where)
        tensors = _read_entries(file, header, start)
    except BaseException:
        file.close()
        raise
    return Weights(tensors, files=[file], format="safetensors", path=path, metadata=metadata)


def _read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    where = str(file.path)
    if file.size < 10:
        raise CorruptFile(
            "the file is too short for a header",
            where=where,
            got=f"{file.size} bytes",
            expected="at least 10",
        )
    (length,) = struct.unpack("<Q", file.buffer[:8])
    if length > MAX_HEADER:
        raise CorruptFile(
            "the header's length (bytes 0-7) is too large",
            where=where,
            got=f"{length:,} bytes",
            expected=f"at most {MAX_HEADER:,}",
            likely="this is not a safetensors file, or it is damaged",
        )
    if length < 2 or 8 + length > file.size:
        raise CorruptFile(
            "the header's length (bytes 0-7) does not fit the file",
            where=where,
            got=f"{length:,} bytes",
            expected=f"2 to {file.size - 8:,}",
            likely="a download was cut short" if length >= 2 else None,
        )
    data = file.buffer[8 : 8 + length]
    if data[:1] != b"{":
        raise CorruptFile('the header does not begin with "{"', where=where, got=f"byte 8 is {data[0]:#04x}")
    # Counted before it is parsed: four keys make a tensor, and parsing costs by the key.
    if data.count(b"data_offsets") > MAX_TENSORS or data.count(b":") > 5 * MAX_TENSORS:
        raise CorruptFile("the header has too many tensors", where=where, expected=f"at most {MAX_TENSORS:,}")
    header = load_object(data, where=where, part="the header")
    if len(header) > MAX_TENSORS + 1:
        raise CorruptFile("the header has too many entries", where=where, expected=f"at most {MAX_TENSORS:,}")
    return header, 8 + length


def _check_metadata(raw: object, where: str) -> dict[str, str]:
    if type(raw) is not dict or not all(type(value) is str for value in raw.values()):
        raise CorruptFile(
            "__metadata__ is not a map from strings to strings", where=where, got=clip(type(raw).__name__)
        )
    return raw


def _read_entries(file: MappedFile, header: dict[str, Any], start: int) -> list[Tensor]:
    """Check each entry alone, then that together they cover the data exactly once."""
    where = str(file.path)
    entries = [(name, *_check_entry(name, raw, where)) for name, raw in header.items()]
    end, last = 0, None
    spans: set[tuple[int, int]] = set()
    for name, _, _, begin, stop in sorted(entries, key=lambda entry: entry[3:]):
        if begin != end:
            kind = "overlaps another tensor" if begin < end else "leaves a gap before it"
            raise CorruptFile(
                f"tensor {clip(name)} {kind}: data_offsets",
                where=where,
                got=f"begin {begin}",
                expected=f"{end}",
                source=f"the end of {clip(last)}" if last is not None else "the start of the data",
            )
        if (begin, stop) in spans:
            raise CorruptFile(
                f"tensor {clip(name)} has another one's data_offsets", where=where, got=f"{begin}"
            )
        spans.add((begin, stop))
        end, last = stop, name
    if start + end != file.size:
        short = start + end > file.size
        raise CorruptFile(
            "the tensors do not end where the file ends",
            where=where,
            got=f"{file.size:,} bytes",
            expected=f"{start + end:,}",
            source="the header",
            likely="a download was cut short" if short else "there are bytes after the last tensor",
        )
    return [
        Tensor(name, dtype, shape, file.array(dtype, shape, start + begin), file=where)
        for name, dtype, shape, begin, _ in entries
    ]


def _check_entry(name: str, raw: object, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """The dtype, shape, begin and end of one entry, each checked for itself."""

    def bad(what: str, got: str, expected: str, source: str | None = None) -> CorruptFile:
        return CorruptFile(
            f"tensor {clip(name)}: {what}", where=where, got=got, expected=expected, source=source
        )

    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise bad("its name", f"{len(name)} characters", f"1 to {_MAX_NAME}, all of them printable")
    if type(raw) is not dict or raw.keys() != _FIELDS:
        got = ", ".join(clip(key, 24) for key in list(raw)[:6]) if type(raw) is dict else type(raw).__name__
        raise bad("its entry", got, "dtype, shape and data_offsets")
    code, dims, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if type(code) is not str or code not in DTYPES:
        raise bad("dtype", clip(code), "one of " + ", ".join(DTYPES))
    if type(dims) is not list or len(dims) > _MAX_DIMS or not all(map(_is_size, dims)):
        raise bad("shape", clip(dims[:9] if type(dims) is list else dims), f"up to {_MAX_DIMS} sizes")
    if type(offsets) is not list or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise bad("data_offsets", clip(offsets), "[begin, end]")
    begin, end = offsets
    nbytes = NUMPY_OF[DTYPES[code]].itemsize
    for size in dims:
        nbytes *= size
        if nbytes > _MAX_BYTES:
            raise bad("shape", clip(dims), "fewer elements")
    if end - begin != nbytes:
        source = f"its dtype {code} and shape {clip(dims)}"
        raise bad(f"data_offsets [{begin}, {end}]", f"{end - begin} bytes", f"{nbytes}", source)
    return DTYPES[code], tuple(dims), begin, end


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_BYTES


def save_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array | Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    align: int = 8,
) -> Path:
    """Write `tensors` and `metadata`, whole or not at all: a scratch file, synced, then renamed.

    Arrays are written in C order. A numpy array has its own dtype; bfloat16 (and float8) need a Tensor, which
    says what its bits mean. The layout is the format library's own: widest dtype first, then by name; the
    header padded with spaces to a multiple of 8. With `align`, a larger power of two, the data begins at a
    multiple of it, and the tensors whose size is one come first, so that each of them begins at one, too.
    Raises InvalidRequest (a dtype or name that the format lacks), WeightsError (the disk).
    """
    plan = []
    for name, value in tensors.items():
        dtype = value.dtype if isinstance(value, Tensor) else value.dtype.name
        array = value.array if isinstance(value, Tensor) else value
        if dtype not in _NAME_OF or not 0 < len(name) <= _MAX_NAME or name == "__metadata__":
            raise InvalidRequest(
                f"tensor {clip(name)} cannot be written", got=dtype, expected=", ".join(_NAME_OF)
            )
        plan.append((name, _NAME_OF[dtype], array))
    plan.sort(key=lambda entry: (align > 8 and entry[2].nbytes % align > 0, -_RANK[entry[1]], entry[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    end = 0
    for name, code, array in plan:
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % align)
    target = Path(path)
    try:
        _write_atomically(target, [struct.pack("<Q", len(text)) + text, *(array for _, _, array in plan)])
    except OSError as error:
        raise WeightsError("the file cannot be written", where=str(target), got=error.strerror) from None
    return target


def _write_atomically(target: Path, chunks: list[bytes | Array]) -> None:
    import tempfile  # costs 10 ms, which reading need not wait for

    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                if isinstance(chunk, bytes):
                    file.write(chunk)
                else:
                    wide = np.ascontiguousarray(chunk)
                    little = wide.astype(wide.dtype.newbyteorder("<"), copy=False)
                    file.write(little.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except BaseException:
        os.unlink(scratch)
        raise
    sync_folder(target.parent)
