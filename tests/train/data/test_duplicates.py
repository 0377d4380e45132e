"""What is found by hashes is what comparing all with all finds."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.train.data import duplicates
from gpt2.train.data.duplicates import (
    Evaluation,
    bands,
    exact_duplicates,
    near_duplicates,
    shingles,
    signatures,
    words,
)

texts = st.lists(st.text("aB1 ,.\né" + "xyz", max_size=60).map(str.encode), min_size=1, max_size=6)


def plain_words(text: bytes) -> list[bytes]:
    return re.findall(rb"[0-9a-z\x80-\xff]+", text.lower())


def plain_shingles(text: bytes, size: int, *, short: bool = True) -> set[tuple[bytes, ...]]:
    found = plain_words(text)
    if short and 0 < len(found) < size:
        return {tuple(found)}
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def plain_near(documents: list[bytes], threshold: float) -> list[int]:
    """The first kept text that each is a near duplicate of, by comparing it with all of them."""
    sets = [plain_shingles(text, duplicates.SHINGLE) for text in documents]
    found: list[int] = []
    for i, mine in enumerate(sets):
        kept = (j for j in range(i) if found[j] == j and mine | sets[j])
        twins = (j for j in kept if len(mine & sets[j]) >= threshold * len(mine | sets[j]))
        found.append(next(twins, i))
    return found


def hashed_near(documents: list[bytes], threshold: float) -> list[int]:
    hashed = shingles(*words(documents), duplicates.SHINGLE, short=True)
    buckets = bands(signatures(*hashed, len(documents)))
    return near_duplicates(buckets, threshold, lambda i: duplicates.shingle_set(documents[i])).tolist()


@given(texts=texts)
def test_words_are_equal_where_their_hashes_are(texts: list[bytes]) -> None:
    hashes, owner = words(texts)
    plain = [(i, word) for i, text in enumerate(texts) for word in plain_words(text)]
    assert owner.tolist() == [i for i, _ in plain]
    assert len(set(hashes.tolist())) == len({word for _, word in plain})
    pairs = zip(hashes.tolist(), (word for _, word in plain), strict=True)
    assert len(set(pairs)) == len(set(hashes.tolist()))


@pytest.mark.parametrize("short", [True, False])
@given(texts=texts, size=st.integers(1, 6))
def test_shingles_are_the_plain_ones(short: bool, texts: list[bytes], size: int) -> None:
    hashes, owner = shingles(*words(texts), size, short=short)
    plain = [plain_shingles(text, size, short=short) for text in texts]
    assert [len(set(hashes[owner == i].tolist())) for i in range(len(texts))] == [len(one) for one in plain]
    assert len(set(hashes.tolist())) == len(set().union(*plain))


def test_the_hash_of_a_word_does_not_depend_on_its_place_or_size_of_the_block() -> None:
    alone, _ = words([b"Tea"])
    assert words([b"x " * 700_000 + b"tea", b"TEA"])[0][-2:].tolist() == [alone[0]] * 2


def varied_corpus(seed: int) -> list[bytes]:
    """Texts of many lengths, with copies that have a few words changed, a half in common, or a frame in
    common."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(300)]

    def text(length: int) -> list[str]:
        return rng.choices(vocabulary, k=length)

    frame = text(60)
    found: list[list[str]] = []
    for _ in range(160):
        kind = rng.random()
        if found and kind < 0.3:
            twin = list(rng.choice(found))
            for _ in range(rng.choice([0, 1, 1, 2, 5, len(twin) // 4])):
                twin[rng.randrange(len(twin))] = rng.choice(vocabulary)
            found.append(twin)
        elif found and kind < 0.4:
            found.append(rng.choice(found)[: rng.randint(1, 200)] + text(rng.randint(1, 100)))
        elif kind < 0.5:
            found.append(frame + text(40))
        else:
            found.append(text(rng.choice([1, 3, 8, 30, 120, 400])))
    return [rng.choice([" ", ", ", "\n"]).join(one).encode() for one in found]


@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_are_those_that_comparing_all_finds(seed: int) -> None:
    documents = varied_corpus(seed)
    truth = plain_near(documents, 0.8)
    assert sum(j != i for i, j in enumerate(truth)) > 10
    assert hashed_near(documents, 0.8) == truth


def test_what_only_looks_alike_is_kept() -> None:
    """Texts from one mould: many candidates, no duplicates."""
    rng = random.Random(1)
    mould = b" ".join(b"w%d" % i for i in range(300))
    own = [b" ".join(b"v%d" % rng.randrange(10**6) for _ in range(150)) for _ in range(60)]
    documents = [mould + b" " + one for one in own]
    assert hashed_near(documents, 0.9) == list(range(60))


def test_texts_without_words_are_nobodys_duplicates() -> None:
    assert hashed_near([b"...", b"...", b"", b"a", b"a", b"!?"], 0.8) == [0, 1, 2, 3, 3, 5]


def test_a_signature_in_parts_is_that_of_the_whole() -> None:
    text = varied_corpus(3)[0] + b" " + b" ".join(b"q%d" % i for i in range(500))
    hashed, owner = shingles(*words([text]), 5, short=True)
    whole = signatures(hashed, owner, 1)[0]
    half = len(hashed) // 2
    parts = [signatures(some, np.zeros(len(some), np.int64), 1)[0] for some in (hashed[:half], hashed[half:])]
    assert np.minimum(*parts).tolist() == whole.tolist()


@given(keys=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_exact_duplicates(keys: list[tuple[int, int]]) -> None:
    array = np.array(keys, np.uint64).reshape(-1, 2)
    assert exact_duplicates(array).tolist() == [keys.index(key) for key in keys]


@given(texts=texts, evaluation=texts, size=st.integers(1, 4))
def test_contamination_counts_the_grams_in_common(
    texts: list[bytes], evaluation: list[bytes], size: int
) -> None:
    forbidden = set().union(*(plain_shingles(text, size, short=False) for text in evaluation))
    measure = Evaluation(evaluation, size)
    plain = [plain_words(text) for text in texts]
    expected = [
        sum(tuple(some[i : i + size]) in forbidden for i in range(len(some) - size + 1)) for some in plain
    ]
    assert measure.hits(*words(texts), len(texts)).tolist() == expected
    assert measure.too_short == sum(len(plain_words(text)) < size for text in evaluation)
