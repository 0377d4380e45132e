"""The Tokenizer: a thin face of the native one.

T tokens, V vocabulary size. Text is str or bytes; bytes need not be UTF-8. A str with a lone surrogate
(half a UTF-16 pair, which is no text) is an InvalidRequest: pass bytes instead.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from gpt2 import _native
from gpt2.errors import ApproximateResult, InvalidRequest, TokenizerError
from gpt2.tokenizer import files
from gpt2.tokenizer.lengths import Policy
from gpt2.tokenizer.lengths import truncate as cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

END_OF_TEXT = "<|endoftext|>"
AllowedSpecial: TypeAlias = Collection[str] | Literal["all"]
PathLike: TypeAlias = str | os.PathLike[str]

FORMATS = ("tokenizer.json", "vocab.json", "encoder.json")
READ_AT_ONCE = 4 << 20
"""Bytes of a training file in memory at a time."""


PIECES_KEPT = 256
"""Answers of ids_containing() that are remembered."""


def utf8_prefix(data: bytes) -> int:
    """The length of the longest prefix that is whole characters of UTF-8. Releases the GIL."""
    return _native.utf8_prefix(data)


class StreamDecoder:
    """Ids to text one at a time. The pieces joined are decode() of all the ids; none ends within a
    character."""

    def __init__(self, native: _native.Tokenizer, skip: int = 0) -> None:
        self._native = native
        self._utf8 = _native.Utf8Stream()
        self._skip = skip

    def push(self, id: int, /) -> str:
        """The text that is certain after this id; may be empty."""
        text = self._native.token_bytes(id)
        if self._skip:
            text, self._skip = text[self._skip :], max(0, self._skip - len(text))
        return self._utf8.push(text)

    def finish(self) -> str:
        """The rest: an incomplete character shows as U+FFFD. The decoder can be used again afterwards."""
        return self._utf8.finish()


class Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer. Make one with load(), from_files() or train().

    Immutable and thread-safe; encoding releases the GIL.
    """

    def __init__(self, native: _native.Tokenizer) -> None:
        self._native = native
        self.special_tokens: dict[str, int] = native.specials()
        """Text and id of each special token."""
        self.vocab_size: int = native.vocab_size
        self.eos_id: int | None = self.special_tokens.get(END_OF_TEXT)
        """The id of <|endoftext|>, or None where the vocabulary has none."""
        self._containing: dict[bytes, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: PathLike) -> Tokenizer:
        """The vocabulary of a model directory, or of one file.

        In a directory tokenizer.json comes first, then vocab.json with merges.txt, then encoder.json with
        vocab.bpe. Raises TokenizerError that says file, line or entry, got and expected.
        """
        return cls(files.open_any(Path(path)))

    @classmethod
    def from_files(cls, vocab: PathLike, merges: PathLike) -> Tokenizer:
        """vocab.json (or encoder.json) and merges.txt (or vocab.bpe), under any names."""
        return cls(files.open_pair(Path(vocab), Path(merges)))

    @classmethod
    def train(
        cls,
        paths: PathLike | Iterable[PathLike],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        min_frequency: int = 0,
        max_words: int = 20_000_000,
    ) -> Tokenizer:
        """Learn a vocabulary from text files (any bytes; each file is one document).

        The ids are the 256 bytes in GPT-2's order, then the merges as they are learnt (highest count first,
        ties to the lowest pair of ids, a pair of fewer than `min_frequency` never), then the special
        tokens. Merges are those of Hugging Face's BpeTrainer. A small corpus may give fewer than
        `vocab_size` tokens.

        Files are read in pieces; memory grows with the number of different words. Beyond `max_words` of
        them the rarest are forgotten, and an ApproximateResult warning says how many occurrences that were.
        """
        trainer = _native.TokenizerTrainer(_count("max_words", max_words))
        for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
            _feed(trainer, Path(path))
        if trainer.dropped:
            warnings.warn(
                f"the merges are approximate: {trainer.dropped:,} occurrences of the rarest words were "
                f"forgotten to keep max_words={max_words:,} different ones; more take about 50 bytes each",
                ApproximateResult,
                stacklevel=2,
            )
        sizes = _count("vocab_size", vocab_size), _count("min_frequency", min_frequency)
        return cls(trainer.train(sizes[0], list(special_tokens), sizes[1]))

    def save(self, folder: PathLike, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the vocabulary; "vocab.json" comes with merges.txt, "encoder.json" with vocab.bpe. Returns
        the paths."""
        return files.save(self._native, Path(folder), tuple(formats))

    def encode(
        self,
        text: str | bytes,
        *,
        allowed_special: AllowedSpecial = (),
        max_length: int | None = None,
        truncate: Policy | None = None,
    ) -> list[int]:
        """The ids of `text`. Special tokens in it are plain text unless `allowed_special` names them.

        More than `max_length` ids are an InvalidRequest, unless `truncate` says on which side to cut ("left",
        "right", "middle"); lengths.truncate() also reports what was cut.
        """
        ids: list[int] = self._native.encode(text, self._allowed(allowed_special))
        if max_length is None or (len(ids) <= max_length and max_length >= 0):
            return ids
        if truncate is None:
            raise InvalidRequest(
                "length of the text in tokens",
                got=len(ids),
                expected=f"at most max_length={max_length}",
                hint='truncate="left", "right" or "middle"',
            )
        return cut(ids, max_length, truncate).ids

    def encode_array(
        self, text: str | bytes, *, allowed_special: AllowedSpecial = ()
    ) -> npt.NDArray[np.int32]:
        """The ids as int32 [T]: the same as encode() without a Python object for each."""
        return self._native.encode_array(text, self._allowed(allowed_special))

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        threads: int | None = None,
        allowed_special: AllowedSpecial = (),
    ) -> list[list[int]]:
        """encode() of each text, on `threads` threads (by default as many as this process may use)."""
        return self._native.encode_batch(texts, self._allowed(allowed_special), _threads(threads), False)

    def encode_batch_arrays(
        self,
        texts: Iterable[str | bytes],
        *,
        threads: int | None = None,
        allowed_special: AllowedSpecial = (),
    ) -> list[npt.NDArray[np.int32]]:
        """encode_array() of each text, on `threads` threads."""
        return self._native.encode_batch(texts, self._allowed(allowed_special), _threads(threads), True)

    def encode_with_offsets(
        self,
        text: str | bytes,
        *,
        allowed_special: AllowedSpecial = (),
        unit: Literal["characters", "bytes"] | None = None,
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids and for each the range [start, stop) of the text that it stands for.

        In characters for a str, where a token with a part of a character has the whole character in its
        range; with unit="bytes", and always for bytes, in bytes (of the UTF-8), where each range begins at
        the end of the one before.
        """
        if unit not in (None, "characters", "bytes") or (unit == "characters" and isinstance(text, bytes)):
            raise InvalidRequest("unit", got=repr(unit), expected='"bytes", or for a str "characters"')
        return self._native.encode_with_offsets(text, self._allowed(allowed_special), unit != "bytes")

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer], *, skip_special: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 show as U+FFFD. An id outside the vocabulary is an
        InvalidRequest that names it and its position."""
        return self._native.decode(ids, skip_special)

    def decode_bytes(
        self, ids: Sequence[int] | npt.NDArray[np.integer], *, skip_special: bool = False
    ) -> bytes:
        """The bytes of the ids: decode_bytes(encode(b)) == b for every b."""
        return self._native.decode_bytes(ids, skip_special)

    def stream(self, *, skip: int = 0) -> StreamDecoder:
        """A decoder for ids that arrive one at a time; the first `skip` bytes are left out."""
        if skip < 0:
            raise InvalidRequest("skip", got=skip, expected="0 or more")
        return StreamDecoder(self._native, skip)

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes that this one id stands for."""
        return self._native.token_bytes(id)

    def ids_containing(self, piece: bytes) -> tuple[int, ...]:
        """The tokens whose bytes contain these, ascending. Remembered: a service asks for the same few."""
        found = self._containing.get(piece)
        if found is None:
            found = tuple(sorted(id for text, ids in self._by_bytes.items() if piece in text for id in ids))
            if len(self._containing) >= PIECES_KEPT:
                self._containing.clear()
            self._containing[piece] = found
        return found

    def token_to_id(self, token: str | bytes) -> int | None:
        """The id of the token with exactly these bytes, or None."""
        return self._ids.get(token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over tokens, merges and special tokens: equal for equal vocabularies, whatever
        files they came from."""
        return hashlib.sha256(self._native.canonical()).hexdigest()

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, hash={self.hash[:12]})"

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: ids[0] for text, ids in self._by_bytes.items()}

    @cached_property
    def _by_bytes(self) -> dict[bytes, list[int]]:
        """Every id by its bytes, ascending; several where ids have the same bytes."""
        found: dict[bytes, list[int]] = {}
        for id in range(self.vocab_size):
            found.setdefault(self._native.token_bytes(id), []).append(id)
        return found

    def _allowed(self, allowed: AllowedSpecial) -> list[int]:
        if not allowed:
            return []
        if allowed == "all":
            return list(self.special_tokens.values())
        if isinstance(allowed, str):
            raise InvalidRequest(
                "allowed_special", got=repr(allowed), expected='"all" or a collection of special tokens'
            )
        unknown = [token for token in allowed if token not in self.special_tokens]
        if unknown:
            raise InvalidRequest(
                "allowed_special", got=repr(unknown[0]), expected=f"one of {sorted(self.special_tokens)}"
            )
        return [self.special_tokens[token] for token in allowed]


def _threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= threads <= 1024:
        raise InvalidRequest("threads", got=threads, expected="1 to 1024")
    return threads


def _count(name: str, value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise InvalidRequest(name, got=value, expected="0 to 2^32 - 1")
    return value


def _feed(trainer: _native.TokenizerTrainer, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while piece := file.read(READ_AT_ONCE):
                trainer.feed(piece)
    except OSError as fault:
        raise TokenizerError(
            "cannot be read", where=str(path), got=fault.strerror, expected="a text file"
        ) from fault
    trainer.end_document()
