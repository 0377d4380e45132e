"""What torch.save wrote before 1.6 (and writes still with _use_new_zipfile_serialization=False).

Five pickles in a row - a magic number, the protocol version 1001, facts about the machine, the object, the
list of storage keys - and then, for each key in that order, an 8-byte element count and the elements
(docs/formats/torch-bin.md). The pickles run in torch_pickle.py, which executes nothing.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from gpt2.errors import CorruptFile
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import MappedFile, Weights
from gpt2.weights.torch_pickle import MAX_PICKLE, Machine, StorageRef, state_dict
from gpt2.weights.torch_views import tensors_on

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_torch_legacy(path: str | os.PathLike[str]) -> Weights:
    """Map one file. Raises UnsafeFile or CorruptFile; executes nothing."""
    file = MappedFile(path)
    try:
        where = str(file.path)
        machine = Machine(where, legacy=True)
        value, keys, start = _run_pickles(file, machine)
        refs = state_dict(value, where)
        offsets = _storage_offsets(file, keys, machine.storages, start)
        tensors = tensors_on(file, refs, offsets)
    except BaseException:
        file.close()
        raise
    return Weights(tensors, files=[file], format="torch-legacy", path=path)


def _run_pickles(file: MappedFile, machine: Machine) -> tuple[Any, list[str], int]:
    """The object, the storage keys in their order, and where the storages begin."""
    # Only the pickles' part is copied; a pickle that is not finished within the limit breaks off.
    data, where = file.buffer[: 2 * MAX_PICKLE], str(file.path)
    magic, at = machine.run(data)
    version, at = machine.run(data, at)
    if type(magic) is not int or magic != _MAGIC or type(version) is not int or version != _PROTOCOL:
        raise CorruptFile("the magic number or the version is not that of torch.save", where=where)
    system, at = machine.run(data, at)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CorruptFile("the file was written on a big-endian machine, or does not say", where=where)
    value, at = machine.run(data, at)
    keys, at = machine.run(data, at)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CorruptFile("the list of storage keys is no list of strings", where=where)
    return value, keys, at


def _storage_offsets(
    file: MappedFile, keys: list[str], storages: dict[str, StorageRef], at: int
) -> dict[str, int]:
    """Where each storage's elements begin. They must be exactly those that the object mentions, up to the
    end."""
    where = str(file.path)
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        odd = sorted(set(keys) ^ set(storages)) or sorted(keys)
        raise CorruptFile("the storage keys are not those of the tensors", where=where, got=clip(odd[0]))
    offsets = {}
    for key in keys:
        ref = storages[key]
        if at + 8 + ref.nbytes > file.size:
            raise CorruptFile(
                f"storage {clip(key)} at byte {at}: the file ends within it", where=where,
                got=f"{file.size:,} bytes", expected=f"at least {at + 8 + ref.nbytes:,}",
                likely="a download was cut short",
            )  # fmt: skip
        (count,) = struct.unpack("<q", file.buffer[at : at + 8])
        if count != ref.numel:
            raise CorruptFile(
                f"storage {clip(key)} at byte {at}: element count", where=where, got=count,
                expected=ref.numel, source="the pickle",
            )  # fmt: skip
        offsets[key] = at + 8
        at += 8 + ref.nbytes
    if at != file.size:
        raise CorruptFile(
            "there are bytes after the last storage",
            where=where,
            got=f"{file.size:,} bytes",
            expected=f"{at:,}",
        )
    return offsets
