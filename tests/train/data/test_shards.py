"""What is written is read again, and a folder that lies is refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.errors import DataError, InvalidRequest
from gpt2.train.data import Batches, Split, Tokens
from gpt2.train.data.shards import ShardWriter, token_type, write_index

V, EOS = 300, 299
TOKENIZER = {"hash": "ab" * 32, "vocab_size": V, "eos_id": EOS}


def write(
    folder: Path,
    documents: list[list[int]],
    *,
    loss: list[int] | None = None,
    shard_tokens: int = 10,
    at_once: int = 1,
    tokenizer: dict[str, Any] | None = None,
) -> Tokens:
    tokenizer = tokenizer or TOKENIZER
    tables = {}
    for split, some in (("train", documents), ("validation", documents[:1])):
        writer = ShardWriter(
            folder,
            split,
            vocab_size=tokenizer["vocab_size"],
            with_loss=loss is not None,
            shard_tokens=shard_tokens,
        )
        for i in range(0, len(some), at_once):
            wholes = [[tokenizer["eos_id"], *ids] for ids in some[i : i + at_once]]
            losses = loss[i : i + at_once] if loss else [0] * len(wholes)
            writer.write(np.concatenate(wholes), np.array([len(ids) for ids in wholes]), np.array(losses))
        tables[split] = writer.finish()
    write_index(folder, {"tokenizer": tokenizer, "shards": tables})
    return Tokens(folder)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Syncing is for power cuts, and slow where others write; see test_prepare.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, [[1, 2, 3], [], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [7]], loss=[2, 0, 3, 0])
    return tmp_path


@given(
    documents=st.lists(st.lists(st.integers(0, V - 2), max_size=12), min_size=1, max_size=9),
    shard_tokens=st.integers(1, 30),
    at_once=st.integers(1, 9),
    big=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_tokens: int,
    at_once: int,
    big: bool,
) -> None:
    tokenizer = TOKENIZER | ({"vocab_size": 70_000, "eos_id": 69_999} if big else {})
    folder = tmp_path_factory.mktemp("t")
    tokens = write(folder, documents, shard_tokens=shard_tokens, at_once=at_once, tokenizer=tokenizer)
    tokens.verify()
    split = tokens.split("train")
    assert [split.document(i).tolist() for i in range(len(split))] == documents
    same = Split.of(documents, vocab_size=tokens.vocab_size, eos_id=tokens.eos_id)
    assert (split.tokens, split.documents) == (same.tokens, same.documents)
    for start in range(0, split.tokens + 1, 3):
        for stop in range(start, split.tokens + 2, 2):
            assert split.read(start, stop).tolist() == same.read(start, stop).tolist()
    assert split.read(split.tokens, split.tokens + 1).tolist() == [tokens.eos_id]
    assert all(
        entry["tokens"] <= shard_tokens or entry["documents"] == 1
        for entry in tokens.index["shards"]["train"]
    )
    assert len(tokens.split("validation")) == 1


def test_the_width_of_a_token() -> None:
    assert [token_type(v).str for v in (1 << 16, (1 << 16) + 1)] == ["<u2", "<u4"]


def test_where_the_loss_begins(folder: Path) -> None:
    split = Tokens(folder).split("train")
    assert split.loss_from is not None
    assert split.loss_from.tolist() == [2, 0, 3, 0]
    assert Batches(split, window=16, batch=1).epoch_tokens == split.tokens - 1 - 2


def test_the_identity_of_the_data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    write(again, [[1, 2, 3], [], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [7]], loss=[2, 0, 3, 0])
    assert Tokens(again).hash == Tokens(folder).hash
    other = tmp_path_factory.mktemp("other")
    assert write(other, [[1, 2, 3], [8]]).hash != Tokens(folder).hash


def test_another_vocabulary_is_refused(folder: Path) -> None:
    tokens = Tokens(folder)
    tokens.check_tokenizer("ab" * 32)
    with pytest.raises(DataError, match="another vocabulary"):
        tokens.check_tokenizer("cd" * 32)


def test_a_changed_bit_is_found_and_named(folder: Path) -> None:
    for path in sorted(folder.glob("*-*")):
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError, match=path.name):
            Tokens(folder).verify()
        path.write_bytes(good)
    Tokens(folder).verify()


def test_a_token_outside_the_vocabulary(folder: Path) -> None:
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + (60_000).to_bytes(2, "little"))
    with pytest.raises(DataError, match="not in the vocabulary") as error:
        list(Batches(Tokens(folder).split("train"), window=8, batch=2).once())
    assert error.value.got == 60_000


Change = Callable[[dict[str, Any]], object]


def change(folder: Path, how: Change) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_bytes())
    how(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda i: i.update(format="other"), "not an index of tokens"),
        (lambda i: i.update(version=2), "another version"),
        (lambda i: i.update(tokenizer=[]), "tokenizer"),
        (lambda i: i["tokenizer"].update(vocab_size=0), "vocab_size"),
        (lambda i: i["tokenizer"].update(vocab_size=True), "vocab_size"),
        (lambda i: i["tokenizer"].update(eos_id=V), "eos_id"),
        (lambda i: i["tokenizer"].update(hash=1), "hash"),
        (lambda i: i.update(shards=[]), "shards"),
        (lambda i: i["shards"].pop("validation"), "shards"),
        (lambda i: i["shards"].update(train={}), "train"),
        (lambda i: i["shards"]["train"].reverse(), "train-00000"),
        (lambda i: i["shards"]["train"][0].update(name="../../etc/passwd"), "train-00000"),
        (lambda i: i["shards"]["train"][0].update(tokens=10**18), "tokens of train-00000"),
        (lambda i: i["shards"]["train"][0].update(tokens=-1), "tokens of train-00000"),
        (lambda i: i["shards"]["train"][0].update(documents=1.5), "documents of train-00000"),
        (lambda i: i["shards"]["train"][0].update(sha256=None), "sha256 of train-00000"),
        (lambda i: i["shards"]["train"][0]["sha256"].update(more="x"), "sha256 of train-00000"),
        (lambda i: i["shards"]["train"][0]["sha256"].update(bin=1), "sha256 of train-00000"),
        (lambda i: i["shards"]["train"][0].update(tokens=3), "another size"),
        (lambda i: i["shards"]["train"][0].update(documents=1), "another size"),
    ],
)
def test_an_index_that_lies(folder: Path, how: Change, said: str) -> None:
    change(folder, how)
    with pytest.raises(DataError, match=said):
        Tokens(folder).split("train")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": "gpt2-tokens"}'])
def test_no_index_at_all(folder: Path, text: bytes) -> None:
    (folder / "index.json").write_bytes(text)
    with pytest.raises(DataError, match="index"):
        Tokens(folder)


@pytest.mark.parametrize("values", [[1, 4], [0, 5, 4, 99], [0, 4, 4, 8]])
def test_beginnings_that_are_none(folder: Path, values: list[int]) -> None:
    path = folder / "train-00000.idx"
    count = len(path.read_bytes()) // 8
    path.write_bytes(np.resize(np.array(values, "<u8"), count).tobytes())
    with pytest.raises(DataError, match="beginnings of the documents"):
        Tokens(folder).split("train")


def test_a_completion_outside_its_document(folder: Path) -> None:
    path = folder / "train-00000.loss"
    for value in (6, (1 << 64) - 1):
        path.write_bytes(np.array([value, 0], "<u8").tobytes())
        with pytest.raises(DataError, match="beginning of a completion"):
            Tokens(folder).split("train")


def test_files_that_are_missing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"no prepared tokens here.*\n.*gpt2 prepare"):
        Tokens(tmp_path_factory.mktemp("empty"))
    (folder / "train-00001.idx").unlink()
    with pytest.raises(DataError, match=r"train-00001\.idx: cannot be read"):
        Tokens(folder).split("train")
    with pytest.raises(DataError, match="cannot be read"):
        Tokens(folder).verify()


def test_arguments(folder: Path) -> None:
    split = Tokens(folder).split("train")
    with pytest.raises(InvalidRequest, match="split"):
        Tokens(folder).split("test")
    for i in (-1, len(split)):
        with pytest.raises(InvalidRequest, match="document"):
            split.document(i)
    for start, stop in [(-1, 2), (3, 2), (0, split.tokens + 2)]:
        with pytest.raises(InvalidRequest, match="stretch"):
            split.read(start, stop)
    with pytest.raises(InvalidRequest, match="ids of a document"):
        Split.of([[V]], vocab_size=V, eos_id=EOS)
    with pytest.raises(InvalidRequest, match="loss_from"):
        Split.of([[1]], vocab_size=V, eos_id=EOS, loss_from=[2])
