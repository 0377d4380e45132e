"""What the demo model is measured against: two general compressors, and a 5-gram model of the same tokens.

The 5-gram model is interpolated modified Kneser-Ney (S. Chen and J. Goodman, "An empirical study of smoothing
techniques for language modeling", 1998, section 4.1.6): the strongest of the classical models, trained on all
the text and the very tokens that the network sees. Counts are kept as sorted arrays of n-grams, each n-gram
packed into one 64-bit integer; that is why the order is five: 6,144**5 < 2**63.

It does not import PyTorch, and it knows nothing of the network.
"""

from __future__ import annotations

import gzip
import lzma
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ORDER = 5


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """The whole held-out text in one piece, which helps the compressors a little."""
    return {
        "gzip -9": 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text),
        "xz -9e": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
    }


@dataclass(frozen=True, slots=True)
class Counts:
    """The n-grams of one order, sorted, with what interpolated Kneser-Ney needs of them."""

    grams: Ints  # [M] packed n-grams
    discounted: Floats  # [M] (count - discount) / total of the context
    contexts: Ints  # [K] packed contexts
    backoff: Floats  # [K] the mass that the discounts leave for the shorter context


def pack(ids: Ints, n: int, base: int) -> Ints:
    """Every n-gram of ids as one integer, in the order of the text: [N - n + 1]."""
    packed = np.zeros(len(ids) - n + 1, np.int64)
    for i in range(n):
        packed = packed * base + ids[i : len(ids) - n + 1 + i]
    return packed


def count(grams: Ints, weights: Ints, base: int) -> Counts:
    """Discount the counts of sorted n-grams; one discount each for counts of 1, of 2 and of more."""
    n1, n2, n3, n4 = (int((weights == k).sum()) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    removed = discounts[np.minimum(weights, 3)]
    contexts, first = np.unique(grams // base, return_index=True)
    totals = np.add.reduceat(weights, first).astype(np.float64)
    left = np.add.reduceat(removed, first) / totals
    per_gram = np.repeat(totals, np.diff([*first, len(grams)]))
    return Counts(grams, (weights - removed) / per_gram, contexts, left)


def look_up(keys: Ints, values: Floats, wanted: Ints, missing: float) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)


class KneserNey:
    def __init__(self, ids: Ints, base: int, order: int = ORDER) -> None:
        """Count ids [N]: occurrences in the highest order, distinct left neighbours in the lower ones."""
        if base**order >= 2**63:
            raise ValueError(f"{order}-grams of {base} symbols do not fit 64 bits")
        self.base, self.order = base, order
        grams, weights = np.unique(pack(ids, order, base), return_counts=True)
        self.levels = {order: count(grams, weights.astype(np.int64), base)}
        for n in range(order - 1, 0, -1):
            grams, weights = np.unique(grams % base**n, return_counts=True)
            self.levels[n] = count(grams, weights.astype(np.int64), base)

    def bits(self, document: Ints) -> float:
        """-log2 of the probability of every token of a document after its first (the end-of-text marker)."""
        targets = document[1:]
        p = np.full(len(targets), 1 / self.base)
        for n in range(1, self.order + 1):
            level = self.levels[n]
            padded = np.concatenate([np.full(max(0, n - 2), document[0]), document])[
                -(len(targets) + n - 1) :
            ]
            grams = pack(padded, n, self.base)
            rest = look_up(level.contexts, level.backoff, grams // self.base, 1.0)
            p = look_up(level.grams, level.discounted, grams, 0.0) + rest * p
        return float(-np.log2(p).sum())
