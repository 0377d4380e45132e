"""Find, read and write the files of a vocabulary.

What is in the files is the native reader's business (native/tokenizer/formats.h); this file opens them and
says which ones there are. Raises TokenizerError for what is missing or cannot be read.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from gpt2 import _native
from gpt2.errors import TokenizerError

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
LARGEST = 1 << 30
"""No vocabulary has a gigabyte; a file that large is something else."""


def read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise TokenizerError(
                "vocabulary file",
                where=str(path),
                got=f"{path.stat().st_size} bytes",
                expected=f"at most {LARGEST}",
            )
        return path.read_bytes()
    except OSError as fault:
        raise TokenizerError(
            "cannot be read", where=str(path), got=fault.strerror, expected="a vocabulary file"
        ) from fault


def open_pair(vocab: Path, merges: Path) -> _native.Tokenizer:
    """vocab.json + merges.txt, or encoder.json + vocab.bpe; added_tokens.json beside the vocabulary is
    read, too."""
    added = vocab.with_name("added_tokens.json")
    extra = _added_tokens(added) if added.is_file() else []
    return _native.Tokenizer.from_vocab_and_merges(
        read(vocab), read(merges), _name(vocab), _name(merges), extra
    )


def open_any(path: Path) -> _native.Tokenizer:
    """A directory, or one file of a vocabulary (the other one of a pair is found beside it)."""
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return _tokenizer_json(path / "tokenizer.json")
        for vocab, merges in PAIRS:
            if (path / vocab).is_file() and (path / merges).is_file():
                return open_pair(path / vocab, path / merges)
        raise TokenizerError(
            "no vocabulary in this directory",
            where=str(path),
            got=_listing(path),
            expected="tokenizer.json, vocab.json and merges.txt, or encoder.json and vocab.bpe",
        )
    if not path.exists():
        raise TokenizerError("no such file or directory", where=str(path), expected="a vocabulary")
    for vocab, merges in PAIRS:
        if path.name in (vocab, merges):
            return open_pair(path.with_name(vocab), path.with_name(merges))
    return _tokenizer_json(path)


def save(native: _native.Tokenizer, folder: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write the formats into the folder (made where it is missing), each file whole or not at all."""
    contents: dict[str, bytes] = {}
    for name in formats:
        if name == "tokenizer.json":
            contents[name] = native.tokenizer_json()
        elif name == "vocab.json":
            contents |= {"vocab.json": native.vocab_json(False), "merges.txt": native.merges_text()}
        elif name == "encoder.json":
            contents |= {"encoder.json": native.vocab_json(True), "vocab.bpe": native.merges_text()}
        else:
            raise TokenizerError(
                "format", got=repr(name), expected="tokenizer.json, vocab.json or encoder.json"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write(folder / name, content)
    except OSError as fault:
        raise TokenizerError("cannot be written", where=str(folder), got=fault.strerror) from fault
    return [folder / name for name in contents]


def _tokenizer_json(path: Path) -> _native.Tokenizer:
    return _native.Tokenizer.from_tokenizer_json(read(path), _name(path))


def _name(path: Path) -> str:
    """The path for messages of the native reader, which wants UTF-8: a file name may be anything."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _added_tokens(path: Path) -> list[tuple[str, int]]:
    try:
        tokens = json.loads(read(path))
    except (ValueError, RecursionError) as fault:
        raise TokenizerError("invalid JSON", where=str(path), got=str(fault)) from fault
    if not isinstance(tokens, dict) or not all(type(i) is int and abs(i) < 1 << 62 for i in tokens.values()):
        raise TokenizerError(
            "added tokens", where=str(path), got="something else", expected="an object {token: id}"
        )
    return list(tokens.items())


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty directory"


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
