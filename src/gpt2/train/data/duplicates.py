"""Documents that are there twice, nearly twice, or in an evaluation: found by their words.

A word is a run of ASCII letters and digits and of bytes beyond ASCII, in small letters; a shingle is n words
one behind the other (all of them, where a text has fewer). Two texts are near duplicates where the sets A and
B of their shingles have |A & B| / |A | B| (Jaccard) of at least a threshold (Broder 1997, "On the resemblance
and containment of documents"). Pairs that may be are found without comparing all with all, by minimal hash
values in bands (MinHash with locality-sensitive hashing; one pass over the shingles instead of K: Li, Owen
and Zhang 2012, arXiv:1208.1259; the empty bins filled as in Shrivastava 2017, arXiv:1703.04664); whether they
are is then computed from the sets themselves, so that nothing is removed by accident.

Everything is numpy over whole blocks of documents. Knows nothing of files or tokens.

    D  documents     K  bins of a signature     W  words of a block
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

SHINGLE = 5
"""Words of a shingle for near duplicates: three are in everybody's sentences, ten break at each small
edit."""
BANDS, ROWS = 25, 5
BINS = BANDS * ROWS
"""A pair of Jaccard s becomes a candidate with probability 1 - (1 - s**ROWS)**BANDS: 0.99995 for s = 0.8,
0.93 for 0.63, and 8e-8 for the 0.02 of two texts of one language."""
EMPTY = np.uint32(0xFFFFFFFF)
"""A bin without a shingle."""
REPRESENTATIVES = 8
"""Kept documents that a bucket remembers. Texts from one mould (licences, forms) fill a bucket without being
near duplicates; comparing with all of them would take the square of their number."""

_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)


def _word_bytes() -> npt.NDArray[np.uint64]:
    """For each byte what it is in a word: its small letter, or 0 where it separates words."""
    table = np.zeros(256, np.uint64)
    for byte in range(256):
        if byte >= 0x80 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 0x80 else byte
    return table


_WORD_BYTES = _word_bytes()


def mixed(x: Hashes) -> Hashes:
    """SplitMix64's finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=4)
def _powers(base: int, bits: int) -> Hashes:
    """base**0, base**1, ... modulo 2**64, 2**bits of them."""
    factors = np.full(1 << bits, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def words(texts: Sequence[bytes]) -> tuple[Hashes, Ints]:
    """The hash of every word of the texts, in order [W], and the number of the text that it is in [W].

    A word's hash is sum_i b_i p**i modulo 2**64, from one running sum over all bytes.
    """
    data = np.frombuffer(b"\n".join(texts) + b"\n", np.uint8)
    letters = _WORD_BYTES[data]
    inside = np.concatenate([np.zeros(1, np.bool_), letters != 0, np.zeros(1, np.bool_)])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    bits = max(len(data).bit_length(), 20)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters * _powers(_BASE, bits)[: len(data)])])
    hashes = mixed((sums[stops] - sums[starts]) * _powers(_INVERSE, bits)[starts])
    ends = np.cumsum(np.array([len(text) + 1 for text in texts], np.int64))
    return hashes, np.searchsorted(ends, starts, "right")


def shingles(hashes: Hashes, owner: Ints, size: int, *, short: bool) -> tuple[Hashes, Ints]:
    """The hash of every shingle of `size` words and the text that it is in. `short`: a text of fewer words
    gives one shingle of all of them; else it gives none."""
    count = len(hashes)
    total = np.zeros(count, np.uint64)
    whole = np.ones(count, np.bool_)
    for k in range(min(size, max(count, 1))):
        same = owner[k:] == owner[: count - k]
        factor = np.uint64(pow(_BASE, 2 * k + 1, 1 << 64))
        total[: count - k] += np.where(same, hashes[k:] * factor, np.uint64(0))
        whole[: count - k] &= same
        whole[count - k :] = False
    if size > count:
        whole[:] = False
    if short:
        begins = np.concatenate([np.ones(min(count, 1), np.bool_), owner[1:] != owner[:-1]])
        whole |= begins & ~_long_enough(owner, size)
    return mixed(total[whole]), owner[whole]


def _long_enough(owner: Ints, size: int) -> npt.NDArray[np.bool_]:
    """For each word whether its text has at least `size` words."""
    if not len(owner):
        return np.zeros(0, np.bool_)
    return np.bincount(owner)[owner] >= size


def signatures(hashes: Hashes, owner: Ints, texts: int) -> npt.NDArray[np.uint32]:
    """For each of `texts` and each bin the smallest hash of its shingles in that bin, EMPTY where there is
    none: [texts, K]. The signature of a text in several parts is the minimum of theirs."""
    out = np.full(texts * BINS, EMPTY, np.uint32)
    bins = (hashes & np.uint64(0xFFFFFFFF)) % np.uint64(BINS)
    values = np.minimum(hashes >> np.uint64(32), np.uint64(EMPTY - 1)).astype(np.uint32)
    np.minimum.at(out, owner * BINS + bins.astype(np.int64), values)
    return out.reshape(texts, BINS)


def bands(signature: npt.NDArray[np.uint32]) -> Hashes:
    """[D, K] signatures -> [D, BANDS] bucket numbers: texts that share one are candidates. Empty bins take
    the value of another bin, the same for all texts that lack it and have that one. 0 for texts without
    words."""
    filled = signature.copy()
    rows = np.flatnonzero((signature == EMPTY).any(1) & (signature != EMPTY).any(1))
    attempt = 0
    while len(rows):
        attempt += 1
        chosen = mixed(np.arange(BINS, dtype=np.uint64) + np.uint64(attempt * 1000)) % np.uint64(BINS)
        other = chosen.astype(np.int64)
        some = filled[rows]
        filled[rows] = np.where(some == EMPTY, signature[rows][:, other], some)
        rows = rows[(filled[rows] == EMPTY).any(1)]
    out = np.zeros((len(signature), BANDS), np.uint64)
    for band in range(BANDS):
        value = np.full(len(signature), band + 1, np.uint64)
        for row in range(ROWS):
            value = mixed(value + filled[:, band * ROWS + row].astype(np.uint64) * np.uint64(_BASE))
        out[:, band] = value
    out[(signature == EMPTY).all(1)] = 0
    return out


def exact_duplicates(keys: Hashes) -> Ints:
    """[D, 2] hashes of the texts -> for each text the first one with the same hash; itself, where it is the
    first."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal ones the first comes first
    ordered = keys[order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))]
    return first


def near_duplicates(buckets: Hashes, threshold: float, shingles_of: Callable[[int], Hashes]) -> Ints:
    """For each text, in order, the kept earlier text that it is a near duplicate of; itself, where it is
    kept.

    `buckets` [D, BANDS] as bands() gives them; `shingles_of(i)` the sorted set of text i, asked for
    candidates only.
    """
    found = np.arange(len(buckets), dtype=np.int64)
    shared = np.zeros(buckets.shape, np.bool_)
    for band in range(buckets.shape[1]):
        _, inverse, counts = np.unique(buckets[:, band], return_inverse=True, return_counts=True)
        shared[:, band] = (counts[inverse] > 1) & (buckets[:, band] != 0)
    sets = _Remembered(shingles_of)
    kept: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(shared.any(1)).tolist():
        mine = [(band, int(buckets[i, band])) for band in np.flatnonzero(shared[i]).tolist()]
        candidates = sorted({j for bucket in mine for j in kept.get(bucket, ())})
        twin = next((j for j in candidates if jaccard(sets(i), sets(j)) >= threshold), None)
        if twin is not None:
            found[i] = twin
            continue
        for bucket in mine:
            members = kept.setdefault(bucket, [])
            if len(members) < REPRESENTATIVES:
                members.append(i)
    return found


def jaccard(a: Hashes, b: Hashes) -> float:
    """|A & B| / |A | B| of two sorted sets."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(len(a) + len(b) - both, 1)


def shingle_set(text: bytes) -> Hashes:
    """The sorted set of the shingles of one text."""
    return np.unique(shingles(*words([text]), SHINGLE, short=True)[0])


class _Remembered:
    """The sets asked for last, so that a bucket's representatives are not made again and again."""

    LIMIT = 256

    def __init__(self, make: Callable[[int], Hashes]) -> None:
        self._make = make
        self._sets: OrderedDict[int, Hashes] = OrderedDict()

    def __call__(self, i: int) -> Hashes:
        if i in self._sets:
            self._sets.move_to_end(i)
            return self._sets[i]
        self._sets[i] = self._make(i)
        if len(self._sets) > self.LIMIT:
            self._sets.popitem(last=False)
        return self._sets[i]


class Evaluation:
    """The n-grams of evaluation texts: what a training text must not have (Brown et al. 2020,
    arXiv:2005.14165, appendix C, with n = 13)."""

    def __init__(self, texts: Sequence[bytes], size: int) -> None:
        self.size = size
        self.texts = len(texts)
        found, owner = shingles(*words(texts), size, short=False)
        self.too_short = self.texts - len(np.unique(owner))
        """Texts of fewer than n words, which cannot be found."""
        self._grams = np.unique(found)

    def hits(self, hashes: Hashes, owner: Ints, texts: int) -> Ints:
        """For each of `texts` how many of its n-grams are in an evaluation text; words as words() gives
        them."""
        grams, of = shingles(hashes, owner, self.size, short=False)
        if not len(self._grams):
            return np.zeros(texts, np.int64)
        at = np.minimum(np.searchsorted(self._grams, grams), len(self._grams) - 1)
        return np.bincount(of[self._grams[at] == grams], minlength=texts)
