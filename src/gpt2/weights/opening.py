"""Open a checkpoint, whatever it is: a directory, one file, or the index of several.

The reader is chosen by what the file contains, never by its name. Only where a directory offers several files
do names decide, in the order that Hugging Face uses. Knows the readers, and nothing of how they read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from gpt2.config import GPT2Config
from gpt2.errors import CorruptFile, ModelNotFound, WeightsError
from gpt2.weights.names import Layout, canonical, check_weights, drop_tied_head
from gpt2.weights.safetensors import read_safetensors
from gpt2.weights.strict_json import clip, load_object
from gpt2.weights.tensor import MappedFile, Tensor, Weights

# In a directory the first of these that is there is opened; then any single file that is a checkpoint by
# content.
USUAL_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_SHARDS = 1000
_MAX_INDEX = 2 << 20

# The magic number with which the legacy torch format begins, as a pickle writes it: LONG1, 10 bytes.
_TORCH_LEGACY = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

# Other things that are found where weights were expected: how they begin, what they are, what to do.
_STRANGERS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file that it stands for", "git lfs pull"),
    (b"GGUF", "a GGUF file", None),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (TensorFlow or Keras weights)", None),
    (b"<!DOCTYPE", "a web page: the download went wrong", "download it again"),
    (b"<html", "a web page: the download went wrong", "download it again"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x93NUMPY", "a numpy array", None),
    (b"\x80", "a pickle, but not one that torch.save wrote", "save the state dict as safetensors"),
)


def open_weights(
    path: str | os.PathLike[str], config: GPT2Config | None = None, *, layout: Layout = "conv1d"
) -> Weights:
    """Map a checkpoint and give its tensors by their canonical names (names.py); copies nothing.

    `path` is a model directory, a single file, or a shard index. With `config`, the tensors are held to it
    (check_weights) and a tied model's copy of its head is dropped. layout="linear" reads a file that stores
    the blocks' matrices as [out, in]. Raises ModelNotFound, CorruptFile, UnsafeFile, WeightsError.
    """
    target = Path(path)
    if target.is_dir():
        target = _weights_file(target)
    raw = reader_of(target)(target)
    try:
        weights = canonical(raw, layout=layout)
        if config is not None:
            check_weights(weights, config)
            weights = drop_tied_head(weights, config)
    except BaseException:
        raw.close()
        raise
    return weights


def reader_of(path: Path) -> Callable[[Path], Weights]:
    """The reader for this file, chosen by its first bytes. Raises CorruptFile where nobody can read it."""
    head, size = _first_bytes(path)
    # The torch readers are imported when a file needs them: few do, and the first token waits for imports.
    if head.startswith(b"PK\x03\x04"):
        from gpt2.weights.torch_zip import read_torch_zip

        return read_torch_zip
    if head[:1] == b"\x80" and _TORCH_LEGACY in head[:32]:
        from gpt2.weights.torch_legacy import read_torch_legacy

        return read_torch_legacy
    # The first byte of a safetensors file is the low byte of its header's length, so "{" alone decides
    # nothing: read as a length, the first 8 bytes of a JSON text are far beyond every file's size.
    length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
    if head.lstrip()[:1] == b"{" and (len(head) < 8 or length > 1 << 40):
        return read_sharded
    if head[8:9] == b"{":
        return read_safetensors
    for start, what, hint in _STRANGERS:
        if head.startswith(start):
            raise CorruptFile(f"this is {what}", where=str(path), expected=_READABLE, hint=hint)
    raise CorruptFile(
        "this is no checkpoint",
        where=str(path),
        expected=_READABLE,
        got=f"{size:,} bytes that begin {head[:8]!r}",
    )


_READABLE = "safetensors, a shard index, or what torch.save writes"


def _first_bytes(path: Path) -> tuple[bytes, int]:
    file = MappedFile(path)
    try:
        return file.buffer[:64], file.size
    finally:
        file.close()


def _weights_file(folder: Path) -> Path:
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return folder / name
    suffixes = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise WeightsError("the directory cannot be read", where=str(folder), got=error.strerror) from None
    found = [name for name in names if name.endswith(suffixes) and _is_checkpoint(folder / name)]
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise WeightsError(
            "the directory has several checkpoints",
            where=str(folder),
            got=", ".join(found[:6]),
            expected="one, or one with a usual name",
            hint="name the file itself",
        )
    raise ModelNotFound(
        "this is not a model directory: it has no weights",
        where=str(folder),
        got=", ".join(clip(name, 40) for name in names[:8]) or "no files",
        expected="one of " + ", ".join(USUAL_NAMES),
    )


def _is_checkpoint(path: Path) -> bool:
    # Trainers leave other files with these suffixes beside the model.
    if path.name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "optimizer.bin"):
        return False
    try:
        return reader_of(path) is not read_sharded
    except (WeightsError, ModelNotFound):
        return False


def read_sharded(path: str | os.PathLike[str]) -> Weights:
    """Open the files that an index (model.safetensors.index.json) names, all in its own directory.

    Every tensor of the index must be in the shard that it names, and no shard may hold others. Raises
    CorruptFile.
    """
    index_path = Path(path)
    where = str(index_path)
    shards = _read_index(index_path)
    parts: list[Weights] = []
    try:
        for name, wanted in shards.items():
            shard = index_path.parent / name
            if not shard.is_file():
                raise CorruptFile("a shard is missing", where=where, expected=str(shard), source="weight_map")
            reader = reader_of(shard)
            if reader is read_sharded:
                raise CorruptFile("a shard is itself an index", where=where, got=clip(name))
            parts.append(reader(shard))
            _check_shard(parts[-1], wanted, where, name)
    except BaseException:
        for part in parts:
            part.close()
        raise
    tensors: list[Tensor] = [tensor for part in parts for tensor in part.values()]
    files = [file for part in parts for file in part.mapped_files]
    metadata = parts[0].metadata if all(part.metadata == parts[0].metadata for part in parts) else {}
    return Weights(tensors, files=files, format=parts[0].format, path=index_path, metadata=metadata)


def _check_shard(part: Weights, wanted: set[str], where: str, name: str) -> None:
    if missing := sorted(wanted - part.keys()):
        raise CorruptFile(
            f"shard {clip(name)} has no tensor {clip(missing[0])}", where=where, source="weight_map"
        )
    if extra := sorted(part.keys() - wanted):
        raise CorruptFile(
            f"shard {clip(name)} holds {clip(extra[0])}, which the index does not say",
            where=where,
            source="weight_map",
        )


def _read_index(path: Path) -> dict[str, set[str]]:
    """For each shard, in order of first mention, the names of its tensors."""
    where = str(path)
    file = MappedFile(path)
    try:
        if file.size > _MAX_INDEX:
            raise CorruptFile("the index is too large", where=where, expected=f"at most {_MAX_INDEX:,} bytes")
        raw = load_object(file.buffer[:], where=where, part="the index")
    finally:
        file.close()
    weight_map = raw.get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise CorruptFile(
            "this JSON is not a shard index",
            where=where,
            got=", ".join(clip(key, 30) for key in list(raw)[:6]),
            expected='a "weight_map" from tensor names to files',
            hint="name the model's directory, not config.json",
        )
    shards: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        # A plain name in the index's own directory: never a path that leads out of it.
        if (
            type(name) is not str
            or name in ("", ".", "..")
            or set(name) & set("/\\\0")
            or not name.isprintable()
        ):
            raise CorruptFile(
                f"weight_map sends {clip(tensor)} outside the directory", where=where, got=clip(name)
            )
        shards.setdefault(name, set()).add(tensor)
    if len(shards) > MAX_SHARDS:
        raise CorruptFile("the index names too many files", where=where, expected=f"at most {MAX_SHARDS}")
    return shards
