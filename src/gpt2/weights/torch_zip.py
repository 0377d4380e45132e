"""What torch.save writes since 1.6: a zip archive of stored entries, read in place.

    NAME/data.pkl    the object, a pickle in which tensors refer to storages (torch_pickle.py, which executes
    nothing) NAME/data/KEY    the elements of one storage, little-endian NAME/byteorder, version,
    .format_version, ...

Only the zip that torch itself writes is read: entries stored, not compressed or encrypted, side by side from
the first byte to the directory, each named once, local and central headers in agreement
(docs/formats/torch-bin.md). That leaves no room for a second archive inside or beside the first.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass

from gpt2.errors import CorruptFile
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import MappedFile, Weights
from gpt2.weights.torch_pickle import MAX_PICKLE, Machine, StorageRef, state_dict
from gpt2.weights.torch_views import tensors_on

MAX_ENTRIES = 10_000
_MAX_DIRECTORY = 4 << 20

# Signatures and fixed parts of the zip format (PKWARE's APPNOTE 6.3, sections 4.3.7 to 4.3.16).
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")

_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_NONE32, _NONE16 = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    flags: int
    crc: int
    size: int
    header: int
    """Offset of the local header."""
    data: int = 0
    """Offset of the bytes; known once the local header is read."""


def read_torch_zip(path: str | os.PathLike[str]) -> Weights:
    """Map one file. Raises UnsafeFile or CorruptFile; executes nothing."""
    file = MappedFile(path)
    try:
        where = str(file.path)
        entries = _entries(file)
        prefix = _prefix(entries, where)
        machine = Machine(where)
        data = _pickle_bytes(file, entries[f"{prefix}/data.pkl"])
        value, end = machine.run(data)
        if end != len(data):
            raise CorruptFile(
                "data.pkl goes on after its end", where=where, got=f"{len(data)} bytes", expected=end
            )
        refs = state_dict(value, where)
        _check_records(file, entries, prefix)
        offsets = {
            key: _storage_offset(entries, f"{prefix}/data/{key}", ref, where)
            for key, ref in machine.storages.items()
        }
        tensors = tensors_on(file, refs, offsets)
    except struct.error:
        file.close()
        raise CorruptFile("the archive's headers reach beyond the file", where=str(path)) from None
    except BaseException:
        file.close()
        raise
    return Weights(tensors, files=[file], format="torch-zip", path=path)


def _bad(file: MappedFile, what: str, got: object = None, expected: object = None) -> CorruptFile:
    return CorruptFile(f"the archive: {what}", where=str(file.path), got=got, expected=expected)


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """Offset, size and entry count of the central directory, which must end where the end records begin."""
    at = file.size - _END.size
    if at < 0:
        raise _bad(file, "the file is too short for a zip", f"{file.size} bytes")
    mark, disk, first_disk, here, count, size, offset, comment = _END.unpack(file.buffer[at:])
    if mark != b"PK\x05\x06" or comment:
        raise CorruptFile(
            "the archive does not end with a zip's end record", where=str(file.path),
            got=f"{mark!r} at byte {at}", likely="a download was cut short, or something was appended",
        )  # fmt: skip
    if disk or first_disk or here != count:
        raise _bad(file, "it says that it spans several disks")
    end = at
    locator = at - _LOCATOR64.size
    if locator >= 0 and file.buffer[locator : locator + 4] == b"PK\x06\x07":
        _, _, end64, disks = _LOCATOR64.unpack(file.buffer[locator:at])
        if disks != 1 or end64 != locator - _END64.size:
            raise _bad(file, "the zip64 end record is not where its locator says", end64)
        fields = _END64.unpack(file.buffer[end64:locator])
        if fields[0] != b"PK\x06\x06" or fields[1] != _END64.size - 12 or fields[4] or fields[5]:
            raise _bad(file, "the zip64 end record is damaged")
        wide = (fields[7], fields[8], fields[9])
        for narrow, full, none in (
            (count, wide[0], _NONE16),
            (size, wide[1], _NONE32),
            (offset, wide[2], _NONE32),
        ):
            if narrow not in (full, none):
                raise _bad(file, "the two end records disagree", narrow, full)
        if fields[6] != fields[7]:
            raise _bad(file, "it says that it spans several disks")
        (count, size, offset), end = wide, end64
    if offset + size != end:
        raise _bad(file, "the directory does not end where the end record begins", offset + size, end)
    if not 1 <= count <= MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise _bad(file, "entries", f"{count:,} in {size:,} bytes", f"1 to {MAX_ENTRIES:,}")
    return offset, size, count


def _entries(file: MappedFile) -> dict[str, _Entry]:
    """Every entry by name. Together they fill the file from byte 0 to the directory."""
    offset, size, count = _directory(file)
    directory = file.buffer[offset : offset + size]
    entries: list[_Entry] = []
    at = 0
    for _ in range(count):
        entry, at = _central_header(file, directory, at)
        entries.append(entry)
    if at != size:
        raise _bad(file, "the directory has bytes after its last entry", size, at)
    out: dict[str, _Entry] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.name in out:
            raise _bad(file, f"two entries are named {clip(entry.name)}")
        if entry.header != end:
            kind = "overlap" if entry.header < end else "leave a gap"
            raise _bad(file, f"entries {kind} before {clip(entry.name)}", entry.header, end)
        out[entry.name], end = _local_header(file, entry, offset)
    if end != offset:
        raise _bad(file, "there is a gap before the directory", offset, end)
    return out


def _central_header(file: MappedFile, directory: bytes, at: int) -> tuple[_Entry, int]:
    fields = _CENTRAL.unpack(directory[at : at + _CENTRAL.size])
    mark, _, _, flags, method, _, _, crc, packed, size, n, m, k, disk, _, _, header = fields
    name = directory[at + _CENTRAL.size :][:n] if n <= 1024 else b""
    if mark != b"PK\x01\x02" or disk or len(name) != n or not n:
        raise _bad(file, f"the directory is damaged at its byte {at}")
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(file, "an entry's name is not UTF-8", repr(name[:40])) from None
    if not text.isprintable() or text.startswith("/") or "\\" in text or ".." in text.split("/"):
        raise _bad(file, f"an entry has an impossible name: {clip(text)}")
    if flags & ~(_DESCRIPTOR | _UTF8):
        kind = "encrypted" if flags & 1 else "written with flags that torch does not use"
        raise _bad(file, f"entry {clip(text)} is {kind}", f"flags {flags:#06x}")
    if method:
        raise _bad(file, f"entry {clip(text)} is compressed", f"method {method}", "0, stored")
    begin = at + _CENTRAL.size + n
    extra = directory[begin : begin + m]
    packed, size, header = _zip64(file, extra, packed, size, header, text)
    if packed != size:
        raise _bad(file, f"entry {clip(text)} has two sizes", packed, size)
    return _Entry(text, flags, crc, size, header), begin + m + k


def _zip64(
    file: MappedFile, extra: bytes, packed: int, size: int, header: int, name: str
) -> tuple[int, int, int]:
    """The 64-bit values that stand in the extra field where the 32-bit ones are all ones."""
    wide: list[int] | None = None
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            if wide is not None or length % 8 or length > 24 or at + 4 + length > len(extra):
                raise _bad(file, f"entry {clip(name)} has a damaged zip64 field")
            wide = list(struct.unpack(f"<{length // 8}Q", extra[at + 4 : at + 4 + length]))
        at += 4 + length
    values = []
    for value in (size, packed, header):
        if value == _NONE32:
            if not wide:
                raise _bad(file, f"entry {clip(name)} lacks its zip64 field")
            value = wide.pop(0)
        values.append(value)
    return values[1], values[0], values[2]


def _local_header(file: MappedFile, entry: _Entry, limit: int) -> tuple[_Entry, int]:
    """The entry with its data's offset, and where it ends; held to what the directory says of it."""
    at = entry.header
    fields = _LOCAL.unpack(file.buffer[at : at + _LOCAL.size])
    mark, _, flags, method, _, _, crc, packed, size, n, m = fields
    name = file.buffer[at + _LOCAL.size : at + _LOCAL.size + n]
    if mark != b"PK\x03\x04" or flags != entry.flags or method or name != entry.name.encode("utf-8"):
        raise _bad(file, f"the header at byte {at} is not that of {clip(entry.name)}")
    late = bool(flags & _DESCRIPTOR)
    for value, told, none in (
        (crc, entry.crc, 0),
        (packed, entry.size, _NONE32),
        (size, entry.size, _NONE32),
    ):
        if value not in (told, none) and not (late and value == 0):
            raise _bad(file, f"the header at byte {at} contradicts the directory", value, told)
    begin = at + _LOCAL.size + n + m
    end = begin + entry.size
    if end > limit:
        raise _bad(file, f"entry {clip(entry.name)} reaches beyond the archive", end, f"at most {limit}")
    if late:
        end += _descriptor_size(file, entry, end)
    return _Entry(entry.name, flags, entry.crc, entry.size, at, begin), end


def _descriptor_size(file: MappedFile, entry: _Entry, at: int) -> int:
    """16 or, for entries of 4 GB, 24 bytes: the signature, the CRC and the two sizes once more."""
    for form in ("<4sIII", "<4sIQQ"):
        size = struct.calcsize(form)
        found = file.buffer[at : at + size]
        if len(found) == size and struct.unpack(form, found) == (
            b"PK\x07\x08",
            entry.crc,
            entry.size,
            entry.size,
        ):
            return size
    raise _bad(file, f"entry {clip(entry.name)} has no valid descriptor at byte {at}")


def _prefix(entries: dict[str, _Entry], where: str) -> str:
    """The one folder that all entries are in; it holds data.pkl."""
    folders = {name.split("/", 1)[0] for name in entries}
    prefix = next(iter(folders))
    if len(folders) != 1 or f"{prefix}/data.pkl" not in entries:
        raise CorruptFile(
            "this zip is not what torch.save writes", where=where,
            got=", ".join(clip(name, 40) for name in list(entries)[:4]),
            expected="NAME/data.pkl and NAME/data/*",
        )  # fmt: skip
    if f"{prefix}/constants.pkl" in entries or any(name.startswith(f"{prefix}/code/") for name in entries):
        raise CorruptFile(
            "this is a TorchScript archive: a program, not a state dict", where=where,
            hint="save model.state_dict() instead",
        )  # fmt: skip
    known = re.compile(
        r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\w{1,32}",
        re.ASCII,
    )
    for name in entries:
        if not known.fullmatch(name[len(prefix) + 1 :]):
            raise CorruptFile(f"the archive: entry {clip(name)} is none that torch.save writes", where=where)
    return prefix


def _pickle_bytes(file: MappedFile, entry: _Entry) -> bytes:
    if entry.size > MAX_PICKLE:
        raise _bad(file, "data.pkl is too large", f"{entry.size:,} bytes", f"at most {MAX_PICKLE:,}")
    data = file.buffer[entry.data : entry.data + entry.size]
    # torch can be told not to compute checksums; it writes 0 then.
    if entry.crc and zlib.crc32(data) != entry.crc:
        raise _bad(file, "data.pkl does not have its checksum", f"{zlib.crc32(data):08x}", f"{entry.crc:08x}")
    return data


def _check_records(file: MappedFile, entries: dict[str, _Entry], prefix: str) -> None:
    order = entries.get(f"{prefix}/byteorder")
    if order is not None and file.buffer[order.data : order.data + min(order.size, 16)] != b"little":
        raise _bad(file, "it was written on a big-endian machine, or does not say", expected="little")


def _storage_offset(entries: dict[str, _Entry], name: str, ref: StorageRef, where: str) -> int:
    entry = entries.get(name)
    if entry is None:
        raise CorruptFile(f"the archive: storage {clip(name)} is missing", where=where, source="data.pkl")
    if entry.size != ref.nbytes:
        raise CorruptFile(
            f"the archive: storage {clip(name)} has another size", where=where, got=f"{entry.size:,} bytes",
            expected=f"{ref.nbytes:,}", source=f"data.pkl ({ref.numel:,} of {ref.dtype})",
        )  # fmt: skip
    return entry.data
