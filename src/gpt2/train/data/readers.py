"""Text, JSONL, tables and Parquet as pieces of documents, in memory that does not grow with the file.

Every byte is checked to be UTF-8, and what is wrong is named: the byte's offset, the line's number. Knows
nothing of compression, of folders, or of tokens; but where a long text is cut is chosen so that tokenising
the pieces gives what tokenising the whole would: see cut().
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from gpt2.errors import DataError, InvalidRequest
from gpt2.tokenizer import utf8_prefix

PIECE = 1 << 20
"""Bytes of a piece, about: large against the cost of a piece, small against memory."""
AT_ONCE = 1 << 20
"""Bytes read from the file at a time."""
LONGEST_PIECE = 1 << 26
"""Where a text has no white space for so many bytes it is cut all the same: memory is bounded, and that word
may have a token more."""
LONGEST_LINE = 1 << 28
"""A line of more bytes than this is no record of a data set."""

_EVERY = "\0"
"""In the place of a column: all of them."""
_BORDER = re.compile(rb"[^\t\n\v\f\r ](?=[\t\n\v\f\r ])")
_UTF8_BOM = b"\xef\xbb\xbf"
_KNOWN_BINARIES = {
    b"%PDF": "it is a PDF: take the text out first, as pdftotext does",
    b"PK\x03\x04": "it is a zip archive, or a document of an office program: unpack or export it first",
    b"\xff\xfe": "it is UTF-16: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "it is UTF-16: iconv -f UTF-16 -t UTF-8",
    b"\x7fELF": "it is a program",
    b"\x89PNG": "it is a picture",
    b"PAR1": 'it is a Parquet file: kind="parquet"',
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a JSONL object, columns of a table, hold the text."""

    text: str | None = None
    """One column, each value of which is a document."""
    prompt: str | None = None
    """With `completion`: the context, which is not learnt."""
    completion: str | None = None
    """What is to be learnt; a document is the prompt with the completion behind it, nothing between them."""

    every: bool = False
    """All columns that are text, one behind the other: for what is only compared, not learnt."""

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.completion is None):
            raise InvalidRequest("prompt and completion", expected="both, or neither")
        if self.text is not None and self.prompt is not None:
            raise InvalidRequest("columns", got="text and prompt", expected="text, or prompt and completion")

    def among(self, there: Iterable[str], where: str) -> tuple[str | None, str]:
        """(prompt column or None, text column) of a table that has the columns `there`; without a choice they
        are "text", else "prompt" and "completion". Raises DataError naming the columns that there are."""
        names = list(there)
        if self.every:
            return None, _EVERY
        if self.text is None and self.prompt is None:
            if "text" in names:
                return None, "text"
            if "prompt" in names and "completion" in names:
                return "prompt", "completion"
            missing = ["text"]
        elif self.text is not None:
            if self.text in names:
                return None, self.text
            missing = [self.text]
        else:
            missing = [
                name for name in (self.prompt, self.completion) if name is not None and name not in names
            ]
            if not missing:
                return self.prompt, cast(str, self.completion)
        shown = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
        raise DataError(
            f"there is no column {' and no column '.join(map(repr, missing))}",
            where=where,
            got=f"the columns {shown}",
            hint="--text-column NAME, or --prompt-column NAME and --completion-column NAME",
        )


ANY_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document, or all of it. Joined, the texts of its pieces are the document's."""

    text: bytes
    """UTF-8, and valid. Where a piece ends and the next begins no token could lie across (readers.cut)."""
    number: int
    """Of the document within its source, from 1: the line in JSONL, the row in a table."""
    first: bool
    last: bool
    prompt: bytes | None = None
    """What stands before the text without being learnt; only in a first piece."""


class Stream(Protocol):
    """The bytes of a source, decompressed."""

    def read(self, size: int, /) -> bytes: ...


def cut(data: bytes, start: int, stop: int) -> int | None:
    """The first place in (start + PIECE, stop) where a text may be cut without changing its tokens; None if
    there is none.

    It lies between a character that is no white space and white space. There GPT-2's pre-tokenizer ends a
    word whatever follows, and what follows begins as if it were the start of the text: all its alternatives
    but the last two begin with at most one space and then take no white space, and those two (runs of white
    space) look ahead, never behind.
    """
    if stop - start <= PIECE:
        return None
    at = start + PIECE - 1
    limit = min(stop, start + LONGEST_PIECE)
    while (match := _BORDER.search(data, at, limit)) is not None:
        border = match.start() + 1
        if data[border - 1] < 0x80 or not _last_character(data, border).isspace():
            return border
        at = border
    if limit == stop:
        return None
    while data[limit] & 0xC0 == 0x80 and limit > start + PIECE:  # never within a character
        limit -= 1
    return limit


def _last_character(data: bytes, stop: int) -> str:
    """The character that ends before `stop` (white space beyond ASCII: U+00A0, U+3000, ...)."""
    start = stop - 1
    while start > stop - 4 and start > 0 and data[start] & 0xC0 == 0x80:
        start -= 1
    return data[start:stop].decode("utf-8", "replace")[-1:]


def text(stream: Stream, name: str, separator: str | None) -> Iterator[Piece]:
    """A text file: one document, or those between separators. A byte-order mark at its beginning is no text;
    line ends are kept as they are."""
    mark = separator.encode("utf-8") if separator else b""
    check = _Utf8(name)
    buffer = b""
    number, first, base, searched = 1, True, 0, 0
    ended = False
    while not ended:
        chunk = stream.read(AT_ONCE)
        ended = not chunk
        if not base and not buffer:
            _refuse_binary(chunk, name)
            if chunk.startswith(_UTF8_BOM):
                chunk, base = chunk[len(_UTF8_BOM) :], len(_UTF8_BOM)
                check.offset = base
        check(chunk)
        buffer += chunk
        at = 0
        while True:
            found = buffer.find(mark, max(at, searched)) if mark else -1
            if found < 0 and ended:
                found = len(buffer)
            if first and mark:
                at = _skip_newlines(buffer, at, found if found >= 0 else len(buffer))
            while (border := cut(buffer, at, found if found >= 0 else len(buffer) - len(mark))) is not None:
                yield Piece(buffer[at:border], number, first, False)
                first, at = False, border
            if found < 0:
                searched = max(at, len(buffer) - len(mark) + 1)
                break
            end = _before_newlines(buffer, at, found) if mark else found
            if not first or end > at:
                yield Piece(buffer[at:end], number, first, True)
                number += 1
            first, at, searched = True, min(found + len(mark), len(buffer)), 0
            if at == len(buffer) and ended:
                break
        base += at
        buffer = buffer[at:]
        searched = max(searched - at, 0)
    if number == 1:
        raise DataError("there is no text in the file", where=name, expected="at least one document")


def jsonl(stream: Stream, name: str, columns: Columns) -> Iterator[Piece]:
    """A JSON object on each line; blank lines are skipped, null is an empty text."""
    for number, line in enumerate(_lines(stream, name), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            whole = line.lstrip().startswith("[") and number == 1
            raise DataError(
                "the line is not JSON",
                where=where,
                got=str(error)[:200],
                expected="one object on each line",
                hint="jq -c '.[]' turns an array into lines" if whole else None,
            ) from None
        if not isinstance(row, dict):
            raise DataError("the line is no JSON object", where=where, got=type(row).__name__)
        prompt, column = columns.among(row, where)
        yield from _row(row, prompt, column, number, where)


def table(stream: Stream, name: str, columns: Columns, delimiter: str) -> Iterator[Piece]:
    """A table with a head: fields may be quoted, and may then have line ends within. Rows are counted from 1,
    the head not."""
    csv.field_size_limit(
        LONGEST_LINE
    )  # the module has one limit for all; its own is too small for a document
    rows = csv.reader(_lines(stream, name), delimiter=delimiter, strict=True)
    number = 0
    try:
        head = next(rows, [])
        if len(set(head)) != len(head):
            twice = next(column for column in head if head.count(column) > 1)
            raise DataError("two columns have one name", where=name, got=repr(twice[:40]))
        prompt, column = columns.among(head, name)
        for row in rows:
            number += 1
            if not row:
                continue
            if len(row) != len(head):
                raise DataError(
                    "the row has another number of fields than the head",
                    where=f"{name}, row {number}, line {rows.line_num}",
                    got=len(row),
                    expected=len(head),
                    likely="a text with a comma or a quote in it is not quoted",
                )
            yield from _row(
                dict(zip(head, row, strict=True)), prompt, column, number, f"{name}, row {number}"
            )
    except csv.Error as error:
        raise DataError("not a table", where=f"{name}, line {rows.line_num}", got=str(error)) from None


def parquet(
    path: Path, name: str, columns: Columns, progress: Callable[[int], None] | None
) -> Iterator[Piece]:
    """A Parquet file, a thousand rows at a time; null is an empty text."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "reading Parquet needs a package", where=name, hint='pip install "gpt2[data]"'
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            prompt, column = columns.among(file.schema_arrow.names, name)
            wanted = None if column == _EVERY else [name for name in (prompt, column) if name is not None]
            rows = file.metadata.num_rows
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield from _row(row, prompt, column, number, f"{name}, row {number}")
                if progress is not None:
                    progress(path.stat().st_size * number // max(rows, 1))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError("not a Parquet file", where=name, got=str(error)[:200]) from None


def _row(row: dict[str, Any], prompt: str | None, column: str, number: int, where: str) -> Iterator[Piece]:
    if column == _EVERY:
        row = {_EVERY: "\n".join(_strings(row))}
    before = None if prompt is None else _value(row, prompt, where)
    yield from in_pieces(_value(row, column, where), number, before)


def _strings(value: object) -> Iterator[str]:
    """The texts in a value of JSON, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def in_pieces(whole: bytes, number: int, prompt: bytes | None = None) -> Iterator[Piece]:
    """A document that is in memory, cut where text() would cut it."""
    at = 0
    while (border := cut(whole, at, len(whole))) is not None:
        yield Piece(whole[at:border], number, at == 0, False, prompt if at == 0 else None)
        at = border
    yield Piece(whole[at:], number, at == 0, True, prompt if at == 0 else None)


def _value(row: dict[str, Any], column: str, where: str) -> bytes:
    value = row[column]
    if value is None:
        return b""
    if not isinstance(value, str):
        raise DataError(
            f"the column {column!r} is no text", where=where, got=type(value).__name__, expected="a string"
        )
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "half of a surrogate pair, which is no text",
            where=where,
            got=f"\\u{ord(value[error.start]):04x} at character {error.start} of {column!r}",
        ) from None


def _lines(stream: Stream, name: str) -> Iterator[str]:
    """The lines with their ends ("\\n"), decoded; the byte-order mark is taken away."""
    rest = b""
    base = 0
    while True:
        chunk = stream.read(AT_ONCE)
        if not base and not rest:
            _refuse_binary(chunk, name)
            if chunk.startswith(_UTF8_BOM):
                chunk, base = chunk[len(_UTF8_BOM) :], len(_UTF8_BOM)
        lines = (rest + chunk if rest else chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield _decoded(line, base, name) + "\n"
            base += len(line) + 1
        if not chunk:
            break
        if len(rest) > LONGEST_LINE:
            raise DataError("a line is too long", where=name, got=f"more than {LONGEST_LINE:,} bytes")
    if rest:
        yield _decoded(rest, base, name)


class _Utf8:
    """Proves a stream to be UTF-8 and free of zero bytes, chunk by chunk."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pending = b""
        """Of a character that goes on in the next chunk."""
        self.offset = 0
        """Bytes before the next chunk."""

    def __call__(self, chunk: bytes) -> None:
        if (zero := chunk.find(b"\0")) >= 0:
            raise _binary(self._name, self.offset + zero)
        data = self._pending + chunk if self._pending else chunk
        rest = data[utf8_prefix(data) :]
        self.offset += len(chunk)
        try:
            codecs.utf_8_decode(rest, "strict", not chunk)  # says what is wrong, if it is not just cut
        except UnicodeDecodeError as error:
            raise _not_utf8(error, self.offset - len(rest), self._name) from None
        self._pending = rest


def _decoded(raw: bytes, base: int, name: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error, base, name) from None


def _not_utf8(error: UnicodeDecodeError, base: int, name: str) -> DataError:
    """`base`: where in the file the bytes begin that the error speaks of."""
    return DataError(
        "the text is not UTF-8",
        where=name,
        got=f"byte 0x{error.object[error.start]:02x} at offset {base + error.start} ({error.reason})",
        expected="UTF-8",
        hint="iconv -f LATIN1 -t UTF-8, or the encoding that the text is in",
    )


def _refuse_binary(head: bytes, name: str) -> None:
    for magic, hint in _KNOWN_BINARIES.items():
        if head.startswith(magic):
            raise DataError("the file is binary, not text", where=name, got=repr(magic), hint=hint)


def _binary(name: str, offset: int) -> DataError:
    return DataError("the file is binary, not text", where=name, got=f"a zero byte at offset {offset}")


def _skip_newlines(buffer: bytes, at: int, stop: int) -> int:
    while at < stop and buffer[at] in b"\r\n":
        at += 1
    return at


def _before_newlines(buffer: bytes, at: int, stop: int) -> int:
    while stop > at and buffer[stop - 1] in b"\r\n":
        stop -= 1
    return stop
