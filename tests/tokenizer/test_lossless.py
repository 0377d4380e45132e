"""Nothing is lost: bytes come back from ids, streams say what decode() says, offsets cover the text."""

from __future__ import annotations

import codecs
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2.errors as errors
from gpt2.tokenizer import Tokenizer
from tokenizer.strings import hard_strings

UTF8_PIECES = st.sampled_from(
    [b"a", b" ", b"\n", b"'s", "é".encode(), "中".encode(), "😀".encode(), b"\xe4\xb8", b"\x80", b"\xff"]
)
HARD_BYTES = st.one_of(st.binary(max_size=300), st.lists(UTF8_PIECES, max_size=40).map(b"".join))


@given(data=HARD_BYTES)
def test_every_byte_string_comes_back(trained: Tokenizer, data: bytes) -> None:
    ids = trained.encode(data)
    assert trained.decode_bytes(ids) == data
    assert trained.decode(ids) == data.decode("utf-8", "replace")
    assert b"".join(map(trained.token_bytes, ids)) == data


@given(text=st.text(max_size=200))
def test_every_text_comes_back(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


@given(data=HARD_BYTES)
def test_a_stream_says_what_decode_says_and_never_ends_within_a_character(
    trained: Tokenizer, data: bytes
) -> None:
    ids = trained.encode(data)
    stream, python = trained.stream(), codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [stream.push(id) for id in ids]
    assert pieces == [python.decode(trained.token_bytes(id)) for id in ids]
    last = stream.finish()
    assert last == python.decode(b"", final=True)
    assert "".join(pieces) + last == trained.decode(ids)
    if "\ufffd" not in data.decode("utf-8", "replace"):
        assert last == ""


@given(ids=st.lists(st.integers(0, 2999), max_size=60))
def test_a_stream_of_any_ids(trained: Tokenizer, ids: list[int]) -> None:
    stream = trained.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == trained.decode(ids)
    assert stream.push(0) == trained.decode([0]), "usable again after finish()"


@given(text=st.text(max_size=120))
def test_offsets_cover_the_text(trained: Tokenizer, text: str) -> None:
    ids, spans = trained.encode_with_offsets(text, unit="bytes")
    data = text.encode()
    assert [data[start:stop] for start, stop in spans] == [trained.token_bytes(i) for i in ids]
    assert [s for s, _ in spans] == [0, *(stop for _, stop in spans)][: len(spans)]
    same_ids, characters = trained.encode_with_offsets(text)
    assert same_ids == ids
    for (first, last), (start, stop) in zip(characters, spans, strict=True):
        # The smallest range of characters that has all the token's bytes.
        assert len(text[:first].encode()) <= start < len(text[: first + 1].encode())
        assert len(text[: last - 1].encode()) < stop <= len(text[:last].encode())


def test_offsets_with_a_special_token(trained: Tokenizer) -> None:
    text = "é<|endoftext|>b"
    ids, spans = trained.encode_with_offsets(text, allowed_special="all")
    assert text[slice(*spans[ids.index(trained.eos_id)])] == "<|endoftext|>"
    with pytest.raises(errors.InvalidRequest, match="unit"):
        trained.encode_with_offsets(b"x", unit="characters")


def test_ids_outside_the_vocabulary_are_named_with_their_position(trained: Tokenizer) -> None:
    for bad in (3000, -1, 2**31, 2**63, -(2**70)):
        with pytest.raises(errors.InvalidRequest, match="position 2"):
            trained.decode([5, 6, bad, 7])
        with pytest.raises(errors.InvalidRequest):
            trained.stream().push(bad)
    for bad in ("x", 1.5, None):
        with pytest.raises(errors.InvalidRequest, match="position 1"):
            trained.decode([5, bad])
    with pytest.raises(errors.InvalidRequest, match=r"3000.*0 to 2999"):
        trained.decode([3000])


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16])
def test_arrays_decode_as_lists_do(trained: Tokenizer, kind: type) -> None:
    ids = trained.encode("Some text, and 中文 too.")
    array = np.array(ids, dtype=kind)
    assert trained.decode(array) == trained.decode(ids) == trained.decode(tuple(ids))
    doubled = np.repeat(array, 2)
    assert trained.decode(doubled[::2]) == trained.decode(ids)


def test_half_a_surrogate_pair_is_no_text(trained: Tokenizer) -> None:
    with pytest.raises(errors.InvalidRequest, match="lone surrogate at character 3") as caught:
        trained.encode("abc\udcff")
    assert "surrogateescape" in str(caught.value)
    kept = "abc\udcff".encode("utf-8", "surrogateescape")
    assert trained.decode_bytes(trained.encode(kept)) == kept


@pytest.mark.parametrize("text", [None, 3, ["a"], bytearray(b"a")])
def test_text_of_another_type(trained: Tokenizer, text: object) -> None:
    with pytest.raises(errors.InvalidRequest, match="str or bytes"):
        trained.encode(text)  # type: ignore[arg-type]


def test_many_threads_share_one_tokenizer(trained: Tokenizer) -> None:
    texts = list(hard_strings(400, seed=7))
    expected = [trained.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert list(pool.map(trained.encode, texts)) == expected


def test_nothing_at_all(trained: Tokenizer) -> None:
    assert trained.encode("") == trained.encode(b"") == []
    assert trained.encode_array("").shape == (0,)
    assert trained.encode_batch([]) == []
    assert trained.encode_with_offsets("") == ([], [])
    assert trained.decode([]) == ""
    assert trained.stream().finish() == ""
