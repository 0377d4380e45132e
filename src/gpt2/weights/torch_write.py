"""Write what torch.save writes for a state dict, without PyTorch: a zip of stored entries around one pickle.

For tools that read nothing but pytorch_model.bin. The pickle is put together opcode by opcode (the same few
that torch_pickle.py allows), so that nothing of PyTorch has to be importable here. The layout is described in
docs/formats/torch-bin.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gpt2.errors import InvalidRequest, WeightsError
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import Array, Tensor

_STORAGE = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
"""The torch storage class of each dtype."""

# Opcodes of pickle protocol 2, by their names in pickletools.
_PROTO_2, _STOP, _MARK, _TUPLE, _EMPTY_TUPLE, _EMPTY_DICT = b"\x80\x02", b".", b"(", b"t", b")", b"}"
_REDUCE, _SETITEMS, _BINPERSID, _NEWFALSE = b"R", b"u", b"Q", b"\x89"


def save_torch(path: str | os.PathLike[str], tensors: Mapping[str, Array | Tensor]) -> Path:
    """Write `tensors` as a state dict, whole or not at all; the restricted loader of PyTorch reads it.

    A numpy array has its own dtype; bfloat16 needs a Tensor, which says what its bits mean. Raises
    InvalidRequest (a dtype that torch lacks), WeightsError (the disk).
    """
    plan = []
    for name, value in tensors.items():
        dtype = value.dtype if isinstance(value, Tensor) else value.dtype.name
        if dtype not in _STORAGE:
            raise InvalidRequest(
                f"tensor {clip(name)} cannot be written", got=dtype, expected=", ".join(_STORAGE)
            )
        plan.append((name, dtype, value.array if isinstance(value, Tensor) else value))
    target = Path(path)
    try:
        _write(target, _pickle(plan), [array for _, _, array in plan])
    except OSError as error:
        raise WeightsError("the file cannot be written", where=str(target), got=error.strerror) from None
    return target


def _pickle(plan: Iterable[tuple[str, str, Array]]) -> bytes:
    out = [_PROTO_2, _EMPTY_DICT, _MARK]
    for key, (name, dtype, array) in enumerate(plan):
        storage = _tuple(
            _text("storage"),
            _global("torch", _STORAGE[dtype]),
            _text(str(key)),
            _text("cpu"),
            _int(array.size),
        )
        strides = [int(np.prod(array.shape[i + 1 :], dtype=np.int64)) for i in range(array.ndim)]
        hooks = _global("collections", "OrderedDict") + _EMPTY_TUPLE + _REDUCE
        arguments = _tuple(
            storage + _BINPERSID,
            _int(0),
            _tuple(*map(_int, array.shape)),
            _tuple(*map(_int, strides)),
            _NEWFALSE,
            hooks,
        )
        out += [_text(name), _global("torch._utils", "_rebuild_tensor_v2"), arguments, _REDUCE]
    return b"".join([*out, _SETITEMS, _STOP])


def _tuple(*items: bytes) -> bytes:
    return _MARK + b"".join(items) + _TUPLE if items else _EMPTY_TUPLE


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data  # BINUNICODE


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode("ascii")


def _int(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)  # BININT
    return b"\x8a\x08" + struct.pack("<q", value)  # LONG1


def _write(target: Path, pickled: bytes, arrays: list[Array]) -> None:
    import tempfile  # these two cost 20 ms, which reading need not wait for
    import zipfile

    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr("archive/data.pkl", pickled)
                archive.writestr("archive/byteorder", b"little")
                for key, array in enumerate(arrays):
                    wide = np.ascontiguousarray(array)
                    little = wide.astype(wide.dtype.newbyteorder("<"), copy=False)
                    archive.writestr(f"archive/data/{key}", little.reshape(-1).view(np.uint8).data)
                archive.writestr("archive/version", b"3\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except BaseException:
        os.unlink(scratch)
        raise
