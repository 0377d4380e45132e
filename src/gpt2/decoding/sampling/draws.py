"""From scores to one token: weights, the cumulative draw, and where its random number comes from.

z [V] float32 are scores that no longer matter by a constant: the weight of a token is exp(z). A banned token
has -inf.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_LEAST_WEIGHT_AT: Final = np.float32(-87.0)
"""Below, the weight is 0: exp(-87) is about the smallest normal float32."""

TOKEN_DRAW: Final = 0
XTC_DRAW: Final = 1
"""The draws of one position: of the token, and of the coin that decides whether XTC acts."""


def weigh(z: Floats) -> Doubles:
    """Weights exp(z) [V]. Below z = -87 they count as 0, as in the native sampler."""
    return np.where(z >= _LEAST_WEIGHT_AT, np.exp(z.astype(np.float64)), 0.0)


def entropy(z: Floats) -> float:
    """Of softmax(z), in nats."""
    weights = weigh(z)
    total = weights.sum()
    met = weights > 0
    return float(np.log(total) - (weights[met] * z[met].astype(np.float64)).sum() / total)


def draw(z: Floats, uniform: float) -> int:
    """The first token, in the order of the ids, whose cumulative weight exceeds `uniform` of the total."""
    cumulative = np.cumsum(weigh(z))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def philox_uniform(seed: int, alternative: int, position: int, draw: int = TOKEN_DRAW) -> float:
    """A uniform number in [0, 1) that depends on these alone: Philox4x32-10 (Salmon et al. 2011), key = seed,
    counter = (position, alternative, draw), the upper 53 of its lower 64 bits. Not numpy's Philox, which is
    4x64."""
    mask = 0xFFFFFFFF
    c = [position & mask, position >> 32, alternative, draw]
    key = [seed & mask, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((c[1] << 32 | c[0]) >> 11) * 2.0**-53
