"""What every reader hands out: named, read-only arrays over a mapped file.

`MappedFile` opens a file and maps it; `Tensor` is one array with its name and dtype; `Weights` is the mapping
from names to tensors. Knows no format and no model: the readers (safetensors.py, torch_zip.py,
torch_legacy.py) fill it, names.py says which names a GPT-2 has.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import CorruptFile, ModelNotFound, WeightsError

Array = NDArray[Any]

NUMPY_OF: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in (
        ("float64", "<f8"), ("float32", "<f4"), ("float16", "<f2"), ("bfloat16", "<u2"),
        ("int64", "<i8"), ("int32", "<i4"), ("int16", "<i2"), ("int8", "i1"),
        ("uint64", "<u8"), ("uint32", "<u4"), ("uint16", "<u2"), ("uint8", "u1"), ("bool", "?"),
        ("complex64", "<c8"), ("float8_e4m3", "u1"), ("float8_e5m2", "u1"), ("float8_e8m0", "u1"),
    )
}  # fmt: skip
"""The numpy dtype that holds each tensor dtype. numpy has no bfloat16 and no float8: those are their bits."""

FLOATS = ("float32", "float16", "bfloat16")
"""The dtypes that a model's parameters may have."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file. Nothing is copied until a method says so."""

    name: str
    dtype: str
    """float32, float16, bfloat16, ...: a key of NUMPY_OF."""
    shape: tuple[int, ...]
    array: Array
    """A read-only view on the mapped file, of dtype NUMPY_OF[dtype]. It may be strided (a transposed view)
    and, in files whose header has an odd length, not aligned: see `contiguous`."""
    file: str = ""
    """The file that it came from, for messages."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return int(self.array.nbytes)

    def contiguous(self) -> Array:
        """The array in C order and aligned for its dtype: the view itself where it is so, otherwise a
        copy."""
        return np.require(self.array, requirements=["C", "A"])

    def to_float32(self) -> NDArray[np.float32]:
        """A float32 copy [shape]; widening float16 and bfloat16 is exact. Another dtype is a WeightsError."""
        if self.dtype == "bfloat16":
            bits = self.array.astype(np.uint32, order="C") << np.uint32(16)
            return bits.view(np.float32).reshape(self.shape)
        if self.dtype not in FLOATS:
            raise WeightsError(
                f'tensor "{self.name}" cannot be widened to float32',
                where=self.file or None,
                got=self.dtype,
                expected=" or ".join(FLOATS),
            )
        return self.array.astype(np.float32, order="C")


class MappedFile:
    """A regular file, mapped read-only. Raises ModelNotFound, CorruptFile (empty) or WeightsError
    (unreadable).

    The map is private to this process, and its pages are the page cache's. A file that another process cuts
    short while it is mapped faults the reader, as with every mapped file: replace model files by renaming, as
    `save_safetensors` does, never in place.
    """

    __slots__ = ("_map", "path", "size")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer; regular files ignore it.
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ModelNotFound("there is no such file", where=str(self.path)) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise WeightsError("the file cannot be opened", where=str(self.path), got=reason) from None
        try:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise WeightsError("this is not a regular file", where=str(self.path))
            self.size = info.st_size
            if self.size == 0:
                raise CorruptFile(
                    "the file is empty", where=str(self.path), likely="a download was cut short"
                )
            self._map: mmap.mmap | None = mmap.mmap(handle, self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise WeightsError(
                "the file cannot be mapped", where=str(self.path), got=error.strerror
            ) from None
        finally:
            os.close(handle)

    @property
    def buffer(self) -> mmap.mmap:
        """The bytes. Raises WeightsError after close()."""
        if self._map is None:
            raise WeightsError("the file is closed", where=str(self.path))
        return self._map

    def array(self, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
        """A read-only view [shape]; the caller has checked that it lies within the file."""
        count = 1
        for size in shape:
            count *= size
        if count == 0:
            return _nothing(dtype, shape)
        return np.frombuffer(self.buffer, NUMPY_OF[dtype], count, offset).reshape(shape)

    def strided(self, dtype: str, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> Array:
        """A read-only view [shape] with these strides in bytes; numpy checks once more that it is within."""
        if 0 in shape:
            return _nothing(dtype, shape)
        return np.ndarray(shape, NUMPY_OF[dtype], self.buffer, offset, strides)

    @property
    def span(self) -> tuple[int, int]:
        """The address of the map in this process, and its length."""
        address: int = self.array("uint8", (1,), 0).__array_interface__["data"][0]
        return address, self.size

    def release(self) -> None:
        """Give back the pages of the map that are in memory. Arrays stay valid: who reads them again gets the
        pages from the page cache, or from the disk."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap, unless arrays still point into the map: then the last of them does."""
        if self._map is not None:
            # An exported array holds the map; unmapping now would make that array a wild pointer.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None


def _nothing(dtype: str, shape: tuple[int, ...]) -> Array:
    """A read-only array without elements, which no offset is needed for."""
    array: Array = np.empty(shape, NUMPY_OF[dtype])
    array.flags.writeable = False
    return array


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, in the order of the file. A context manager; close() drops the
    maps."""

    __slots__ = ("_files", "_tensors", "format", "metadata", "path")

    def __init__(
        self,
        tensors: Iterable[Tensor],
        *,
        files: Iterable[MappedFile],
        format: str,
        path: str | os.PathLike[str],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._files = tuple(files)
        self.format = format
        """safetensors, torch-zip or torch-legacy."""
        self.path = Path(path)
        self.metadata: dict[str, str] = dict(metadata or {})
        """The header's __metadata__ (safetensors); empty for the others."""

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Weights({str(self.path)!r}, {len(self)} tensors, {self.format})"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors: one, or the shards."""
        return tuple(file.path for file in self._files)

    @property
    def mapped_files(self) -> tuple[MappedFile, ...]:
        """The maps themselves, for whoever joins several checkpoints into one."""
        return self._files

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors' elements."""
        return sum(tensor.nbytes for tensor in self.values())

    def replaced(self, tensors: Iterable[Tensor]) -> Weights:
        """The same files with other tensors: renamed, dropped or transposed views."""
        return Weights(tensors, files=self._files, format=self.format, path=self.path, metadata=self.metadata)

    def close(self) -> None:
        """Forget the tensors and unmap. Arrays that are still held elsewhere stay valid."""
        self._tensors = {}
        for file in self._files:
            file.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
