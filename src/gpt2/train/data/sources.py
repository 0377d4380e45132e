"""Where the text comes from: files and folders, found, opened and decompressed.

    find_sources(["notes.txt", "corpus/"])     the files, in an order that does not depend on the machine
    read(source)                               its documents
    pieces(source)                             the same in parts of bounded size, for a file larger than
    memory

What a file is, is seen from its content where it can be (gzip, xz, bzip2, zstd, Parquet), else from its name:
.jsonl and .ndjson have a JSON object on each line, .csv and .tsv are tables, everything else is text. How
each is read is in readers.py. Zstandard and Parquet need packages that are not in the base: pip install
"gpt2[data]".

Raises DataError for what cannot be read as what it seems to be, saying where: the byte, the line, the row.
Knows nothing of tokens.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from gpt2.errors import DataError, InvalidRequest
from gpt2.train.data import readers
from gpt2.train.data.readers import ANY_COLUMNS, Columns, Piece, Stream

Kind: TypeAlias = Literal["text", "jsonl", "csv", "tsv", "parquet"]
PathLike: TypeAlias = str | os.PathLike[str]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""What a folder is searched for, and how it is read."""
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be read."""

    path: Path
    name: str
    """What it is called in messages and in the index: the path within the folder that was given, or the
    file's name."""
    kind: Kind
    size: int
    """Bytes on the disk, compressed as they are."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from."""

    text: str
    """With its prompt, where it has one."""
    where: str
    """Source and number, for messages: "notes.jsonl:17"."""
    completion_from: int | None = None
    """The character where the completion begins; what is before it is context and has no loss. None: all is
    learnt."""


def find_sources(
    paths: Iterable[PathLike], *, include: Iterable[str] = (), kind: Kind | None = None
) -> tuple[list[Source], list[str]]:
    """The files to read, and the names of those in the folders that are left out.

    A file is taken whatever it is called. A folder is searched to its depths in the order of the names,
    hidden files and folders not; taken is what has a suffix of KINDS (compressed or not), or matches a
    pattern of `include` ("*.py"), which is then text. `kind` reads every file as that.

    Raises DataError for a path that is not there, for an empty file, and where nothing is found.
    """
    if kind is not None and kind not in get_args(Kind):
        raise InvalidRequest("kind", got=repr(kind), expected=", ".join(get_args(Kind)))
    patterns = tuple(include)
    found: list[Source] = []
    left: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            for file in _walk(path):
                name = file.relative_to(path).as_posix()
                if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns) or _suffix(file) in KINDS:
                    found.append(_source(file, name, kind))
                else:
                    left.append(name)
        else:
            found.append(_source(path, path.name, kind))
    if not found:
        raise DataError(
            "no text was found",
            got=f"{len(left)} files of other kinds ({_some_suffixes(left)})" if left else "nothing",
            expected=f"files in {', '.join(KINDS)}",
            hint="--include '*.py', a pattern for what else is text" if left else None,
        )
    return found, left


def read(source: Source, columns: Columns = ANY_COLUMNS, separator: str | None = None) -> Iterator[Document]:
    """The documents of a source, whole. For arguments and errors see readers.pieces()."""
    parts: list[bytes] = []
    prompt: str | None = None
    for piece in pieces(source, columns, separator):
        if piece.first:
            prompt = None if piece.prompt is None else piece.prompt.decode("utf-8")
        parts.append(piece.text)
        if piece.last:
            text = b"".join(parts).decode("utf-8")
            parts = []
            where = place(source, piece.number)
            yield Document(
                text if prompt is None else prompt + text, where, None if prompt is None else len(prompt)
            )


def pieces(
    source: Source,
    columns: Columns = ANY_COLUMNS,
    separator: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Piece]:
    """The documents of a source in pieces of about a megabyte at most, in order.

    Args:
        columns: for JSONL and tables, which of them is the text.
        separator: for text, what stands between documents, as in "<|endoftext|>"; newlines beside it are no
        text.
            None: the file is one document.
        progress: is called with the bytes of the file that have been read so far.

    Raises DataError where the content is not what it should be.
    """
    with opened(source, progress) as stream:
        if source.kind == "parquet":
            yield from readers.parquet(source.path, source.name, columns, progress)
        elif source.kind == "jsonl":
            yield from readers.jsonl(stream, source.name, columns)
        elif source.kind in ("csv", "tsv"):
            yield from readers.table(stream, source.name, columns, "," if source.kind == "csv" else "\t")
        else:
            yield from readers.text(stream, source.name, separator)


def place(source: Source, number: int) -> str:
    """A document in messages: the file alone where it is the only one, else with its number."""
    return source.name if source.kind == "text" and number == 1 else f"{source.name}:{number}"


@contextmanager
def opened(source: Source, progress: Callable[[int], None] | None = None) -> Iterator[Stream]:
    """The bytes of the file, decompressed. Faults of the disk and of the compression become DataError."""
    try:
        with source.path.open("rb") as file:
            yield _decompressed(_Counted(file, progress), source.name)
    except EOFError:
        raise DataError(
            "the compressed file ends too early",
            where=source.name,
            likely="it was cut off while it was copied",
        ) from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError("the compressed data are damaged", where=source.name, got=str(error)) from None
    except OSError as error:
        raise DataError("cannot be read", where=source.name, got=error.strerror or str(error)) from None


class _Counted(io.RawIOBase):
    """A file that says how far it has been read."""

    def __init__(self, file: io.BufferedReader, progress: Callable[[int], None] | None) -> None:
        self._file, self._progress = file, progress
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._at += count
        if self._progress is not None:
            self._progress(self._at)
        return count

    def magic(self) -> bytes:
        return self._file.peek(8)[:8]


def _decompressed(file: _Counted, name: str) -> Stream:
    magic = file.magic()
    buffered = io.BufferedReader(file, 1 << 20)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=buffered)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(buffered)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(buffered)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _Zstandard(buffered, name)
    return buffered


class _Zstandard:
    """Frames of Zstandard, one after the other. The library's own reader takes a cut-off frame for the
    end."""

    FED = 1 << 12
    """Bytes given at once: a block of 4 bytes can stand for 128 KB, so this is at most 128 MB of output."""

    def __init__(self, file: Stream, name: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise DataError(
                "reading Zstandard needs a package", where=name, hint='pip install "gpt2[data]"'
            ) from None
        self._file, self._name = file, name
        self._new: Callable[[], Any] = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._fault = zstandard.ZstdError
        self._frame = self._new()
        self._started = False
        self._ready = bytearray()

    def read(self, size: int, /) -> bytes:
        while len(self._ready) < size and (fed := self._file.read(self.FED)):
            self._feed(fed)
        if len(self._ready) < size and self._started:
            raise EOFError
        out = bytes(self._ready[:size])
        del self._ready[:size]
        return out

    def _feed(self, fed: bytes) -> None:
        while fed:
            try:
                self._ready += self._frame.decompress(fed)
            except self._fault as error:
                raise DataError("the compressed data are damaged", where=self._name, got=str(error)) from None
            self._started = not self._frame.eof
            fed = b""
            if self._frame.eof:
                fed, self._frame = self._frame.unused_data, self._new()


def _source(path: Path, name: str, kind: Kind | None) -> Source:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError("is no file and no folder", where=str(path))
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DataError("cannot be read", where=str(path), got=error.strerror) from None
    if size == 0:
        raise DataError("the file is empty", where=str(path), expected="text")
    if kind is None:
        kind = "parquet" if magic == b"PAR1" else KINDS.get(_suffix(path), "text")
    return Source(path, name, kind, size)


def _suffix(path: Path) -> str:
    """The suffix that says what is inside, in small letters: .jsonl of a.jsonl.gz."""
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError("cannot be read", where=str(folder), got=error.strerror) from None
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():  # a link to a folder above would have no end
            yield from _walk(path)
        elif path.is_file():
            yield path


def _some_suffixes(names: list[str]) -> str:
    suffixes = sorted({Path(name).suffix or "none" for name in names})
    return ", ".join(suffixes[:8]) + (", ..." if len(suffixes) > 8 else "")
