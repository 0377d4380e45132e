"""Seeds made from a seed: one for each reply of a session, so that no two draw from the same random numbers.

The draw for a position depends on (seed, alternative, position) alone, and positions begin anew with each
reply; so each reply needs a seed of its own.
"""

from __future__ import annotations

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def draw_seed(seed: int, draw: int) -> int:
    """The seed of the reply `draw` (0, 1, ...): `seed` itself for the first, so that it is what a request
    with that seed gets; then SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195) of both."""
    if draw == 0:
        return seed
    z = (_mixed(seed) + draw * _GOLDEN) & _MASK
    return _mixed(z)


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
