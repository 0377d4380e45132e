"""Build checkpoint files byte by byte, right and wrong ones, without the libraries that usually write them.

The hostile files (hostile_*.py) and the fuzz targets (fuzz_*.py) start from these. Nothing here reads a file.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from gpt2.config import GPT2Config
from gpt2.weights import expected_shapes

TINY = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=2)


def tiny_arrays(config: GPT2Config = TINY, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The tensors of a tiny model, every element another number."""
    out, count = {}, 0
    for name, shape in expected_shapes(config).items():
        size = int(np.prod(shape))
        out[name] = (np.arange(count, count + size) / 1024).astype(dtype).reshape(shape)
        count += size
    return out


# safetensors


def safetensors_file(header: object, data: bytes, *, length: int | None = None, pad: bool = True) -> bytes:
    """A file with this header (an object to be written as JSON, or the bytes themselves) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode("utf-8")
    if pad and not isinstance(header, bytes):
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def good_safetensors() -> tuple[dict[str, dict], bytes]:
    """Header and data of three tensors: "a" [2, 3] float32, "b" [4] float16, "c" [] float32."""
    data = bytes(range(24)) + bytes(range(8)) + bytes(4)
    header = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "F32", "shape": [], "data_offsets": [32, 36]},
    }
    return header, data


# pickles: each function gives the opcodes that push one value


def uni(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def num(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tup(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def ints(*values: int) -> bytes:
    return tup(*map(num, values))


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *args: bytes) -> bytes:
    return function + tup(*args) + b"R"


ODICT = glob("collections", "OrderedDict")
EMPTY_ODICT = ODICT + b")R"
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"


def pid(key: str = "0", numel: int = 6, storage: str = "FloatStorage", *, more: bytes = b"") -> bytes:
    """A reference to a storage, by BINPERSID."""
    return tup(uni("storage"), glob("torch", storage), uni(key), uni("cpu"), num(numel), more) + b"Q"


def tensor(
    storage: bytes,
    offset: int = 0,
    shape: bytes = ints(2, 3),
    stride: bytes = ints(3, 1),
    hooks: bytes = EMPTY_ODICT,
) -> bytes:
    return call(glob("torch._utils", "_rebuild_tensor_v2"), storage, num(offset), shape, stride, FALSE, hooks)


def odict(**items: bytes) -> bytes:
    return EMPTY_ODICT + b"(" + b"".join(uni(key) + value for key, value in items.items()) + b"u"


def program(value: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + value + b"."


def good_pickle(more: bytes = b"") -> bytes:
    """A state dict of one tensor "a" [2, 3] float32; `more` are opcodes run on the finished dict."""
    return program(odict(a=tensor(pid())) + more)


# torch's zip


@dataclass
class Entry:
    """One entry; every field of its headers can be made to lie."""

    name: str
    data: bytes
    flags: int = 0
    method: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: str | None = None
    local: dict[str, int] = field(default_factory=dict)
    """Other values for the local header: flags, method, crc, size, packed."""
    header: int | None = None
    """Another offset for the directory."""
    before: bytes = b""
    """Bytes in front of the local header."""
    extra: bytes = b""
    """Extra field of the directory's header."""
    descriptor: bytes | None = None


def zip_file(
    entries: list[Entry],
    *,
    comment: bytes = b"",
    count: int | None = None,
    after: bytes = b"",
    offset: int | None = None,
    size: int | None = None,
    disk: int = 0,
    zip64: bytes | None = None,
) -> bytes:
    out, directory = b"", b""
    for e in entries:
        crc = zlib.crc32(e.data) if e.crc is None else e.crc
        full = len(e.data) if e.size is None else e.size
        packed = full if e.packed is None else e.packed
        told = {"flags": e.flags, "method": e.method, "crc": crc, "size": full, "packed": packed, **e.local}
        out += e.before
        at = len(out) if e.header is None else e.header
        local_name = (e.name if e.local_name is None else e.local_name).encode("utf-8", "surrogatepass")
        name = e.name.encode("utf-8", "surrogatepass")
        out += struct.pack(
            "<4sHHHHHIIIHH", b"PK\x03\x04", 0, told["flags"], told["method"], 0, 0, told["crc"],
            min(told["packed"], 0xFFFFFFFF), min(told["size"], 0xFFFFFFFF), len(local_name), 0,
        ) + local_name + e.data  # fmt: skip
        if e.flags & 8:
            plain = struct.pack("<4sIII", b"PK\x07\x08", crc, full, full)
            out += plain if e.descriptor is None else e.descriptor
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 0, 0, e.flags, e.method, 0, 0, crc, packed, full, len(name),
            len(e.extra), 0, 0, 0, 0, at,
        ) + name + e.extra  # fmt: skip
    begin = len(out) if offset is None else offset
    length = len(directory) if size is None else size
    number = len(entries) if count is None else count
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, number, number, length, begin, len(comment))
    return out + directory + (zip64 or b"") + end + comment + after


def torch_entries(pickle: bytes | None = None, *, storages: dict[str, bytes] | None = None) -> list[Entry]:
    """The entries that torch.save writes for the good pickle and its storage "0"."""
    blocks = {"0": bytes(range(24))} if storages is None else storages
    return [
        Entry("m/data.pkl", good_pickle() if pickle is None else pickle),
        Entry("m/byteorder", b"little"),
        *(Entry(f"m/data/{key}", data) for key, data in blocks.items()),
        Entry("m/version", b"3\n"),
    ]


def torch_zip_file(pickle: bytes | None = None, *, storages: dict[str, bytes] | None = None) -> bytes:
    return zip_file(torch_entries(pickle, storages=storages))


# torch's legacy format

MAGIC = 0x1950A86A20F9469CFC6C


def system_info(little: bytes = TRUE) -> bytes:
    return b"}(" + uni("protocol_version") + num(1001) + uni("little_endian") + little + b"u"


def legacy_file(
    value: bytes | None = None,
    *,
    magic: bytes = num(MAGIC),
    version: bytes = num(1001),
    system: bytes = system_info(),
    keys: bytes = b"](" + uni("0") + b"e",
    storages: bytes = struct.pack("<q", 6) + bytes(range(24)),
) -> bytes:
    """The five pickles and the storages; by default a state dict of one tensor."""
    item = odict(a=tensor(pid(more=NONE))) if value is None else value
    return b"".join(map(program, (magic, version, system, item, keys))) + storages
