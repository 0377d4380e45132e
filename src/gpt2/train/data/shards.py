"""Tokens on the disk: one folder, mapped, never read whole (docs/formats/tokens.md).

    index.json              what is there: tokenizer, settings, sources, and each shard with its SHA-256
    train-00000.bin         tokens, uint16 where V <= 65,536, else uint32, little-endian
    train-00000.idx         where each document begins in the .bin, and its end: uint64 [documents + 1]
    train-00000.loss        for prompts with completions: uint64 [documents]
    validation-00000.bin    ...

A document is stored as

    <|endoftext|> t_1 t_2 ... t_n

and the documents of a split stand one behind the other, so that the marker that begins one ends the one
before it. The stream of a split is all of them in order; after its last token stands, unstored, one more
marker. Each stored token is an input once and has a next token, so N stored tokens are N predictions: every
token of the text, and the end of every document.

Every length is compared with the file before it is believed. Knows nothing of text, of windows or of batches.

N tokens of a split, V vocabulary size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpt2.errors import DataError, InvalidRequest
from gpt2.weights.disk import sha256_of, sync_folder

FORMAT = "gpt2-tokens"
VERSION = 1
INDEX = "index.json"
SPLITS = ("train", "validation")
_LARGEST_INDEX = 1 << 30

Ids: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Offsets: TypeAlias = npt.NDArray[np.int64]
PathLike: TypeAlias = str | os.PathLike[str]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every id: uint16 or uint32, little-endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True, slots=True)
class _Shard:
    """A stretch of a split: its tokens, mapped, and the beginnings of its documents from its own start."""

    tokens: Ids
    starts: Offsets
    """[documents + 1], the last one being the number of tokens."""
    loss: Offsets | None


class Split:
    """The documents of one split, in their order, and the stream that they make.

    Opened by Tokens.split(); Split.of() makes one in memory. Immutable; threads may share it.
    """

    def __init__(self, shards: Sequence[_Shard], *, name: str, vocab_size: int, eos_id: int) -> None:
        self._shards = tuple(shards)
        self.name = name
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        """The id of the end-of-text marker."""
        sizes = np.array([len(shard.tokens) for shard in shards], np.int64)
        self._shard_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.tokens = int(self._shard_starts[-1])
        """N: the stored tokens, one marker for each document among them."""
        self.documents = sum(len(shard.starts) - 1 for shard in shards)

    @classmethod
    def of(
        cls,
        documents: Iterable[Sequence[int] | npt.NDArray[np.integer]],
        *,
        vocab_size: int,
        eos_id: int,
        loss_from: Sequence[int] | None = None,
        name: str = "train",
    ) -> Split:
        """A split in memory, of the ids of each text (without markers), for tests and for small data.

        `loss_from`: for each document how many of its first ids are a prompt, that is, context without loss.
        """
        parts = [np.concatenate([[eos_id], np.asarray(ids, np.int64)]) for ids in documents]
        for ids in parts:
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise InvalidRequest(
                    "ids of a document", got=int(ids.max()), expected=f"0 to {vocab_size - 1}"
                )
        lengths = np.array([len(ids) for ids in parts], np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        stream = np.concatenate([np.zeros(0, np.int64), *parts]).astype(token_type(vocab_size))
        loss = None
        if loss_from is not None:
            loss = np.array([n + 1 if n else 0 for n in loss_from], np.int64)
            if len(loss) != len(parts) or (loss < 0).any() or (loss > lengths).any():
                raise InvalidRequest("loss_from", expected="for each document 0 to the number of its ids")
        return cls([_Shard(stream, starts, loss)], name=name, vocab_size=vocab_size, eos_id=eos_id)

    @cached_property
    def starts(self) -> Offsets:
        """Where each document begins in the stream, its marker first, and N: int64 [documents + 1]."""
        parts = [
            shard.starts[:-1] + base for shard, base in zip(self._shards, self._shard_starts, strict=False)
        ]
        return np.concatenate([*parts, np.array([self.tokens], np.int64)])

    @cached_property
    def loss_from(self) -> Offsets | None:
        """For each document, the first of its stored tokens that is to be predicted: int64 [documents].

        Counted from the document's marker; the tokens from 1 to before it are a prompt. 0 where all are. None
        where no document has a prompt.
        """
        if all(shard.loss is None for shard in self._shards):
            return None
        return np.concatenate(
            [
                np.zeros(len(shard.starts) - 1, np.int64) if shard.loss is None else shard.loss
                for shard in self._shards
            ]
        )

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The tokens [start, stop) of the stream, copied: int64 [stop - start]. Position N is the last
        marker.

        Raises InvalidRequest beyond 0 <= start <= stop <= N + 1, DataError for an id that is not in the
        vocabulary.
        """
        if not 0 <= start <= stop <= self.tokens + 1:
            raise InvalidRequest(
                "a stretch of the stream", got=(start, stop), expected=f"0 to {self.tokens + 1}"
            )
        out = np.full(stop - start, self.eos_id, np.int64)
        shard = int(np.searchsorted(self._shard_starts, start, "right")) - 1
        at = start
        while at < min(stop, self.tokens):
            base = int(self._shard_starts[shard])
            piece = self._shards[shard].tokens[at - base : stop - base]
            out[at - start : at - start + len(piece)] = piece
            at += len(piece)
            shard += 1
        if out.size and int(out.max()) >= self.vocab_size:
            at = start + int(np.argmax(out >= self.vocab_size))
            raise DataError(
                "a token is not in the vocabulary",
                where=f"token {at} of {self.name}",
                got=int(out.max()),
                expected=f"less than {self.vocab_size}",
                likely="the file has been changed since it was written; Tokens.verify() says which",
            )
        return out

    def document(self, i: int) -> npt.NDArray[np.int64]:
        """The ids of the text of document i, without its marker: int64 [n]."""
        if not 0 <= i < self.documents:
            raise InvalidRequest("document", got=i, expected=f"0 to {self.documents - 1}")
        return self.read(int(self.starts[i]) + 1, int(self.starts[i + 1]))

    def __len__(self) -> int:
        return self.documents

    def __repr__(self) -> str:
        return f"Split({self.name!r}, documents={self.documents}, tokens={self.tokens})"


class Tokens:
    """A folder of prepared tokens, opened: Tokens(folder).split("train").

    Raises DataError for what is missing, truncated, or says something impossible.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        raw = _read_index(self.folder)
        self.hash = hashlib.sha256(raw).hexdigest()
        """SHA-256 of index.json, and so, through the sums in it, of every token: the identity of the data."""
        self.index: Mapping[str, Any] = _parse(raw, self.folder / INDEX)
        """What index.json says."""
        self.tokenizer_hash: str = self.index["tokenizer"]["hash"]
        """Tokenizer.hash of the vocabulary that the ids belong to."""
        self.vocab_size: int = self.index["tokenizer"]["vocab_size"]
        self.eos_id: int = self.index["tokenizer"]["eos_id"]

    def split(self, name: str) -> Split:
        """The documents of "train" or "validation"; a split may be empty."""
        if name not in SPLITS:
            raise InvalidRequest("split", got=repr(name), expected=" or ".join(SPLITS))
        shards = [_open_shard(self.folder, entry, self.vocab_size) for entry in self.index["shards"][name]]
        return Split(shards, name=name, vocab_size=self.vocab_size, eos_id=self.eos_id)

    def check_tokenizer(self, tokenizer_hash: str) -> None:
        """Raise DataError unless the ids are of the vocabulary with this Tokenizer.hash."""
        if tokenizer_hash != self.tokenizer_hash:
            raise DataError(
                "the tokens are of another vocabulary than the model's",
                where=str(self.folder),
                got=f"{self.tokenizer_hash[:12]} with {self.vocab_size:,} entries",
                expected=f"{tokenizer_hash[:12]}",
                source="the model's tokenizer",
                hint="gpt2 prepare -m MODEL, with the model that is to be trained",
            )

    def verify(self) -> None:
        """Read every byte and compare it with the sums of the index. Raises DataError naming the file."""
        for entries in self.index["shards"].values():
            for entry in entries:
                for suffix, expected in entry["sha256"].items():
                    path = self.folder / f"{entry['name']}.{suffix}"
                    if (got := file_hash(path)) != expected:
                        raise DataError(
                            "the file is not what was written",
                            where=str(path),
                            got=f"SHA-256 {got[:16]}...",
                            expected=f"{expected[:16]}...",
                            source=INDEX,
                        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError("cannot be read", where=str(path), got=error.strerror) from None


class ShardWriter:
    """Write the documents of one split, in order, into shards of at most `shard_tokens` tokens (or of one
    document).

    The files are complete, synced and under their own names when finish() returns their table; what makes
    them a folder of tokens is the index, which is written last.
    """

    def __init__(
        self, folder: Path, split: str, *, vocab_size: int, with_loss: bool, shard_tokens: int = 1 << 28
    ) -> None:
        self._folder, self._split = folder, split
        self._type = token_type(vocab_size)
        self._with_loss = with_loss
        self._shard_tokens = shard_tokens
        self._table: list[dict[str, Any]] = []
        self._file: Any = None
        self._hash = hashlib.sha256()
        self._written = 0
        self._starts: list[npt.NDArray[np.int64]] = []
        self._loss: list[npt.NDArray[np.int64]] = []

    def write(
        self,
        tokens: npt.NDArray[np.integer],
        lengths: npt.NDArray[np.int64],
        loss_from: npt.NDArray[np.int64],
    ) -> None:
        """Append whole documents: their stored tokens one after the other, the length of each [documents],
        and what Split.loss_from will say of each [documents]."""
        ends = np.cumsum(lengths)
        first = 0
        while first < len(lengths):
            base = int(ends[first - 1]) if first else 0
            room = self._shard_tokens - self._written
            last = int(np.searchsorted(ends, base + room, "right"))
            if last <= first:
                if self._written:
                    self._close()
                    continue
                last = first + 1  # one document that is larger than a shard has one of its own
            stop = int(ends[last - 1])
            self._append(tokens[base:stop], lengths[first:last], loss_from[first:last])
            first = last

    def stream(self, stretches: Iterable[npt.NDArray[np.integer]], length: int, loss_from: int) -> None:
        """Append one document whose `length` stored tokens come in stretches, so that it need not be in
        memory."""
        if self._written and self._written + length > self._shard_tokens:
            self._close()
        first = np.array([length], np.int64)
        for some in stretches:
            self._append(some, first, np.array([loss_from], np.int64))
            first = first[:0]

    def finish(self) -> list[dict[str, Any]]:
        """Close the last shard; the table of all for the index."""
        self._close()
        return self._table

    def _append(
        self, tokens: npt.NDArray[np.integer], lengths: npt.NDArray[np.int64], loss: npt.NDArray[np.int64]
    ) -> None:
        if self._file is None:
            self._file = (self._folder / f"{self._name()}.bin").open("wb")
        raw = np.ascontiguousarray(tokens, self._type).data.cast("B")
        self._file.write(raw)
        self._hash.update(raw)
        self._starts.append(np.cumsum(lengths) - lengths + self._written)
        self._loss.append(loss[: len(lengths)])
        self._written += len(tokens)

    def _close(self) -> None:
        if self._file is None:
            return
        sync_and_close(self._file)
        starts = np.concatenate([*self._starts, np.array([self._written], np.int64)]).astype("<u8")
        sums = {"bin": self._hash.hexdigest(), "idx": self._side_file("idx", starts)}
        if self._with_loss:
            sums["loss"] = self._side_file("loss", np.concatenate(self._loss).astype("<u8"))
        entry = {"name": self._name(), "documents": len(starts) - 1, "tokens": self._written, "sha256": sums}
        self._table.append(entry)
        self._file, self._hash, self._written, self._starts, self._loss = None, hashlib.sha256(), 0, [], []

    def _side_file(self, suffix: str, values: npt.NDArray[Any]) -> str:
        raw = values.tobytes()
        file = (self._folder / f"{self._name()}.{suffix}").open("wb")
        file.write(raw)
        sync_and_close(file)
        return hashlib.sha256(raw).hexdigest()

    def _name(self) -> str:
        return f"{self._split}-{len(self._table):05d}"


def sync_and_close(file: Any) -> None:
    """What was written is on the disk when this returns."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def write_index(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write index.json, whole or not at all, and sync the folder: from here on the folder is one of tokens.

    `facts` has "tokenizer" {hash, vocab_size, eos_id} and "shards" {split: table of ShardWriter.finish()},
    and may have more.
    """
    text = json.dumps(
        {"format": FORMAT, "version": VERSION, **facts}, indent=1, ensure_ascii=False, allow_nan=False
    )
    scratch = folder / f".{INDEX}.new"
    with scratch.open("wb") as file:
        file.write(text.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / INDEX)
    sync_folder(folder)


# --- reading what nobody has vouched for ---


def _read_index(folder: Path) -> bytes:
    path = folder / INDEX
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise DataError(
                "the index is too large", where=str(path), expected=f"{_LARGEST_INDEX:,} bytes at most"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            "no prepared tokens here",
            where=str(folder),
            expected=INDEX,
            hint="gpt2 prepare SOURCE --output DIR; one that was interrupted goes on when it is called again",
        ) from None
    except OSError as error:
        raise DataError("cannot be read", where=str(path), got=error.strerror) from None


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    """The index as an object whose parts that we rely on are of the right kind and size."""
    try:
        index = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError("the index is not JSON", where=str(path), got=str(error)[:200]) from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError("not an index of tokens", where=str(path), expected=f'"format": "{FORMAT}"')
    if index.get("version") != VERSION:
        raise DataError(
            "the index is of another version", where=str(path), got=index.get("version"), expected=VERSION
        )
    _check_tokenizer_entry(index.get("tokenizer"), path)
    shards = index.get("shards")
    if not isinstance(shards, dict) or set(shards) != set(SPLITS):
        raise DataError("shards", where=str(path), expected=f"an object with {' and '.join(SPLITS)}")
    for split, table in shards.items():
        if not isinstance(table, list):
            raise DataError(f"the shards of {split}", where=str(path), expected="a list")
        for number, entry in enumerate(table):
            _check_entry(entry, f"{split}-{number:05d}", path)
    return index


def _check_tokenizer_entry(tokenizer: object, path: Path) -> None:
    if not isinstance(tokenizer, dict):
        raise DataError("tokenizer", where=str(path), expected="an object")
    vocab_size, eos_id = tokenizer.get("vocab_size"), tokenizer.get("eos_id")
    if type(vocab_size) is not int or not 0 < vocab_size < 1 << 32:
        raise DataError("tokenizer.vocab_size", where=str(path), got=vocab_size, expected="1 to 2^32 - 1")
    if type(eos_id) is not int or not 0 <= eos_id < vocab_size:
        raise DataError("tokenizer.eos_id", where=str(path), got=eos_id, expected=f"0 to {vocab_size - 1}")
    if not isinstance(tokenizer.get("hash"), str):
        raise DataError("tokenizer.hash", where=str(path), expected="a string")


def _check_entry(entry: object, name: str, path: Path) -> None:
    """A line of the table of shards; the name is fixed, so that no index leads to a file outside its
    folder."""
    if not isinstance(entry, dict) or entry.get("name") != name:
        got = entry.get("name") if isinstance(entry, dict) else entry
        raise DataError("a shard", where=str(path), got=repr(got)[:80], expected=f'"name": "{name}"')
    for field in ("documents", "tokens"):
        value = entry.get(field)
        if type(value) is not int or not 0 < value < 1 << 48:
            raise DataError(f"{field} of {name}", where=str(path), got=value, expected="1 to 2^48 - 1")
    sums = entry.get("sha256")
    if not isinstance(sums, dict) or not {"bin", "idx"} <= set(sums) <= {"bin", "idx", "loss"}:
        raise DataError(f"sha256 of {name}", where=str(path), expected="bin and idx, and perhaps loss")
    if not all(isinstance(value, str) for value in sums.values()):
        raise DataError(f"sha256 of {name}", where=str(path), expected="strings")


def _open_shard(folder: Path, entry: Mapping[str, Any], vocab_size: int) -> _Shard:
    tokens = _map(folder / f"{entry['name']}.bin", token_type(vocab_size), entry["tokens"])
    path = folder / f"{entry['name']}.idx"
    starts = np.asarray(_map(path, np.dtype("<u8"), entry["documents"] + 1)).astype(np.int64)
    if starts[0] != 0 or starts[-1] != len(tokens) or (np.diff(starts) <= 0).any():
        raise DataError(
            "the beginnings of the documents",
            where=str(path),
            expected=f"ascending numbers from 0 to {len(tokens)}, the number of tokens",
        )
    loss = None
    if "loss" in entry["sha256"]:
        path = folder / f"{entry['name']}.loss"
        loss = np.asarray(_map(path, np.dtype("<u8"), entry["documents"])).astype(np.int64)
        if ((loss < 0) | (loss > np.diff(starts))).any():
            raise DataError("the beginning of a completion", where=str(path), expected="within its document")
    return _Shard(tokens, starts, loss)


def _map(path: Path, kind: np.dtype[Any], count: int) -> Any:
    try:
        size = path.stat().st_size
        if size != count * kind.itemsize:
            raise DataError(
                "the file has another size than the index says",
                where=str(path),
                got=f"{size:,} bytes",
                expected=f"{count * kind.itemsize:,}",
                source=INDEX,
            )
        return np.memmap(path, kind, "r", shape=(count,))
    except OSError as error:
        raise DataError("cannot be read", where=str(path), got=error.strerror) from None
