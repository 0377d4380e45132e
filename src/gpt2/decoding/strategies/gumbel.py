"""Draws without replacement: the largest of scores plus Gumbel noise (Kool et al. 2019, arXiv:1903.06059).

The noise of a token depends on (seed, position, beam, token) alone, as the draw of the plain sampler depends
on (seed, alternative, position); the two never share a number. It is the Philox of
sampling.philox_uniform() for many tokens at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles: TypeAlias = npt.NDArray[np.float64]
    Integers: TypeAlias = npt.NDArray[np.int64]

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def gumbel_noise(seed: int, position: int, beam: int, tokens: Integers) -> Doubles:
    """Standard Gumbel noise for each of `tokens`."""
    return cast("Doubles", -np.log(-np.log(uniforms(seed, position, beam, tokens))))


def uniforms(seed: int, position: int, beam: int, tokens: Integers) -> Doubles:
    """Numbers in (0, 1), one for each token: Philox4x32-10, key = seed, counter = (position, beam, 1 + token
    // 2), the lower or the upper 52 bits that are left of its two halves."""
    pairs, at = np.unique(tokens // 2, return_inverse=True)
    c = [
        np.full(pairs.size, position & 0xFFFFFFFF, dtype=np.uint64),
        np.full(pairs.size, position >> 32, dtype=np.uint64),
        np.full(pairs.size, beam, dtype=np.uint64),
        (pairs + 1).astype(np.uint64),
    ]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        k0, k1 = np.uint64(key[0]), np.uint64(key[1])
        c = [(b >> _HALF) ^ c[1] ^ k0, b & _MASK, (a >> _HALF) ^ c[3] ^ k1, a & _MASK]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    lower, upper = c[1] << _HALF | c[0], c[3] << _HALF | c[2]
    bits = np.where(tokens % 2 == 0, lower[at], upper[at]) >> np.uint64(12)
    # The middle of one of 2^52 cells: neither 0 nor 1, whose noise would be infinite.
    return (bits.astype(np.float64) + 0.5) * 2.0**-52
