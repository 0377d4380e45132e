"""Vocabulary files that are wrong: each is a TokenizerError that says file, place, got and expected."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2.errors as errors
from gpt2 import _native
from gpt2.tokenizer import Tokenizer
from machine import small_vocabulary

Files = tuple[bytes, bytes]


def files() -> tuple[dict[str, int], list[str]]:
    vocab, merges = small_vocabulary()
    return vocab, [f"{left} {right}" for left, right in merges]


def pack(vocab: object, lines: list[str]) -> Files:
    return json.dumps(vocab).encode(), "\n".join(["#version: 0.2", *lines, ""]).encode()


def with_vocab(change: Callable[[dict[str, object]], object]) -> Files:
    vocab, lines = files()
    changed = dict[str, object](vocab)
    change(changed)
    return pack(changed, lines)


def with_lines(change: Callable[[list[str]], object]) -> Files:
    vocab, lines = files()
    change(lines)
    return pack(vocab, lines)


def with_json(text: str | bytes) -> Files:
    return text.encode() if isinstance(text, str) else text, pack(*files())[1]


WHOLE = json.dumps(files()[0])
BAD: dict[str, tuple[Callable[[], Files], list[str]]] = {
    "a byte is missing": (
        lambda: with_vocab(lambda v: v.update({"zz": v.pop("Z")})),
        ["vocab.json", "byte 90", '"Z"'],
    ),
    "one id twice": (
        lambda: with_vocab(lambda v: v.update(th=3)),
        ["vocab.json", '"th"', "got 3", "has already"],
    ),
    "a gap in the ids": (
        lambda: with_vocab(lambda v: v.update(th=900)),
        ["vocab.json", '"th"', "got 900", "0 to 268"],
    ),
    "a negative id": (lambda: with_vocab(lambda v: v.update(th=-1)), ["vocab.json", '"th"', "got -1"]),
    "a huge id": (lambda: with_vocab(lambda v: v.update(th=2**80)), ["vocab.json", "line 1", "64 bits"]),
    "an id that is no number": (
        lambda: with_vocab(lambda v: v.update(th="x")),
        ["vocab.json", "whole number"],
    ),
    "an id with a fraction": (lambda: with_vocab(lambda v: v.update(th=1.5)), ["vocab.json", "1.5"]),
    "an id that is null": (lambda: with_vocab(lambda v: v.update(th=None)), ["vocab.json", "whole number"]),
    "one token twice": (lambda: with_json(WHOLE[:-1] + ', "th": 269}'), ["vocab.json", '"th"', "two ids"]),
    "an empty token": (lambda: with_vocab(lambda v: v.update({"": 269})), ["vocab.json", "empty token"]),
    "no entries": (lambda: with_json("{}"), ["vocab.json", "0 tokens"]),
    "a list": (lambda: with_json("[1, 2]"), ["vocab.json", "line 1", "an object"]),
    "a number": (lambda: with_json("5"), ["vocab.json", "an object"]),
    "an empty file": (lambda: with_json(""), ["vocab.json", "end of the file"]),
    "a truncated file": (lambda: with_json(WHOLE[:1000]), ["vocab.json", "end of the file"]),
    "a truncated string": (lambda: with_json(WHOLE[:3]), ["vocab.json"]),
    "two values": (lambda: with_json(WHOLE + "{}"), ["vocab.json", "more after the end"]),
    "a trailing comma": (lambda: with_json(WHOLE[:-1] + ",}"), ["vocab.json", "a string"]),
    "no colon": (lambda: with_json('{"a" 1}'), ["vocab.json", "':'"]),
    "no comma": (lambda: with_json('{"a": 1 "b": 2}'), ["vocab.json", "','"]),
    "single quotes": (lambda: with_json("{'a': 1}"), ["vocab.json", "a string"]),
    "a NUL": (lambda: with_json('{"a\0": 1}'), ["vocab.json", "0x00"]),
    "NUL bytes": (lambda: with_json(b"\0" * 64), ["vocab.json", "0x00"]),
    "a bad escape": (lambda: with_json(r'{"\x41": 1}'), ["vocab.json", "escape"]),
    "a short escape": (lambda: with_json(r'{"\u12"'), ["vocab.json", "hexadecimal"]),
    "half a surrogate pair": (lambda: with_json(r'{"\ud800": 1}'), ["vocab.json", "surrogate"]),
    "a pair the wrong way round": (lambda: with_json(r'{"\udc00\ud800": 1}'), ["vocab.json", "surrogate"]),
    "not UTF-8": (lambda: with_json(b'{"\xff\xfe": 1}'), ["vocab.json", "UTF-8", "0xff"]),
    "UTF-16": (lambda: with_json(WHOLE.encode("utf-16")), ["vocab.json"]),
    "a byte-order mark": (lambda: with_json(b"\xef\xbb\xbf" + WHOLE.encode()), ["vocab.json", "0xef"]),
    "deep nesting": (lambda: with_json('{"a":' * 100_000), ["vocab.json"]),
    "a leading zero": (lambda: with_json('{"a": 01}'), ["vocab.json"]),
    "NaN": (lambda: with_json('{"a": NaN}'), ["vocab.json"]),
    "weights": (lambda: with_json(b"PK\x03\x04" + bytes(range(256))), ["vocab.json", "an object"]),
    "a merge of an unknown token": (
        lambda: with_lines(lambda m: m.append("qq q")),
        ["merges.txt", "line 14", '"qq"'],
    ),
    "a merge to an unknown token": (
        lambda: with_lines(lambda m: m.append("q q")),
        ["merges.txt", "line 14", '"qq"'],
    ),
    "a merge of one part": (lambda: with_lines(lambda m: m.insert(0, "th")), ["merges.txt", "line 2", "th"]),
    "a merge of three parts": (
        lambda: with_lines(lambda m: m.insert(2, "t h e")),
        ["merges.txt", "line 4", "t h e"],
    ),
    "two blanks": (lambda: with_lines(lambda m: m.insert(0, "t  h")), ["merges.txt", "line 2"]),
    "a blank at the end": (lambda: with_lines(lambda m: m.insert(0, "t ")), ["merges.txt", "line 2"]),
    "an empty line": (lambda: with_lines(lambda m: m.insert(1, "")), ["merges.txt", "line 3", "empty line"]),
    "merges that are binary": (lambda: (WHOLE.encode(), bytes(range(256)) * 4), ["merges.txt", "line 1"]),
    "the files swapped": (lambda: (pack(*files())[1], WHOLE.encode()), ["vocab.json", "an object"]),
    "a long entry": (lambda: with_vocab(lambda v: v.update({"x" * 10_000: 3})), ["vocab.json", "xxx..."]),
}


def load(folder: Path, content: Files) -> Tokenizer:
    (folder / "vocab.json").write_bytes(content[0])
    (folder / "merges.txt").write_bytes(content[1])
    return Tokenizer.load(folder)


def test_the_unchanged_files_load(tmp_path: Path) -> None:
    assert len(load(tmp_path, pack(*files()))) == 269


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path: Path, make: Callable[[], Files], said: list[str]) -> None:
    start = time.process_time()
    with pytest.raises(errors.TokenizerError) as caught:
        load(tmp_path, make())
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert len(message) < 1000, "a hostile entry does not fill the screen"
    assert time.process_time() - start < 0.5


def test_merges_without_a_version_line_and_with_windows_line_ends(tmp_path: Path) -> None:
    vocab, lines = files()
    expected = load(tmp_path, pack(vocab, lines)).hash
    assert load(tmp_path, (WHOLE.encode(), "\n".join(lines).encode())).hash == expected
    assert (
        load(tmp_path, (WHOLE.encode(), "\r\n".join(["#version: 0.2", *lines, ""]).encode())).hash == expected
    )


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path / "nothing", "no such file or directory"),
        (tmp_path, "an empty directory"),
        (tmp_path / "vocab.json", "no such file"),
    ]:
        with pytest.raises(errors.TokenizerError, match=said):
            Tokenizer.load(path)
    (tmp_path / "vocab.json").write_bytes(pack(*files())[0])
    with pytest.raises(errors.TokenizerError, match=r"got vocab\.json, expected tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(errors.TokenizerError, match=r"merges\.txt"):
        Tokenizer.load(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").mkdir()
    with pytest.raises(errors.TokenizerError, match="cannot be read"):
        Tokenizer.load(tmp_path / "vocab.json")


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    small_vocab: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed, removed or repeated anywhere: a TokenizerError, or a vocabulary that still works."""
    whole = [(small_vocab / name).read_bytes() for name in ("vocab.json", "merges.txt")]
    which = data.draw(st.integers(0, 1))
    content = whole[which]
    start = data.draw(st.integers(0, len(content)))
    stop = min(len(content), start + data.draw(st.integers(0, 8)))
    whole[which] = content[:start] + data.draw(st.binary(max_size=8)) + content[stop:]
    try:
        native = _native.Tokenizer.from_vocab_and_merges(whole[0], whole[1], "vocab.json", "merges.txt", [])
    except errors.TokenizerError as fault:
        message = str(fault)
    else:
        tokenizer = Tokenizer(native)
        assert tokenizer.decode(tokenizer.encode("the end, and 中")) == "the end, and 中"
        return
    assert "vocab.json" in message or "merges.txt" in message
