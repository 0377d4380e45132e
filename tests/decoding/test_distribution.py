"""The tokens that are drawn have exactly the distribution that the options promise: chi-square, 100,000
draws.

The expected probabilities are written out here in float64, apart from the code under test. Draws are a
function of the seed, so that a test either always passes or always fails.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from decoding.rules import native_params, random_logits
from gpt2 import _native
from gpt2.decoding import SamplingParams

DRAWS = 100_000
HISTORY = [3, 3, 8, 1]


def counts(logits: Any, params: SamplingParams, *, alternatives: bool = False) -> Any:
    """How often each token comes, [V], at positions 0, 1, ... or for alternatives 0, 1, ... of one
    position."""
    sampler, native = _native.Sampler(len(logits)), native_params(params)
    history = np.asarray(HISTORY, dtype=np.int32)
    places = ((0, i) for i in range(DRAWS)) if alternatives else ((i, 0) for i in range(DRAWS))
    tokens = [sampler.next(logits, native, history, *place)[0] for place in places]
    return np.bincount(tokens, minlength=len(logits))


def chi_square(observed: Any, probabilities: Any) -> tuple[float, float]:
    """The statistic, and the value that one true distribution in a million exceeds (Wilson and Hilferty
    1931). Tokens expected less than 10 times are taken together."""
    expected = probabilities * observed.sum()
    rare = expected < 10
    o, e = observed[~rare], expected[~rare]
    if expected[rare].sum() >= 1:
        o, e = np.append(o, observed[rare].sum()), np.append(e, expected[rare].sum())
    freedom = len(o) - 1
    if freedom == 0:
        return 0.0, 1.0
    limit = freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3
    return float(((o - e) ** 2 / e).sum()), limit


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def truth(logits: Any, params: SamplingParams) -> Any:
    x = logits.astype(np.float64)
    for id in set(HISTORY):
        x[id] *= params.repetition_penalty if x[id] < 0 else 1 / params.repetition_penalty
    x /= params.temperature
    if params.top_k:
        x[x < sorted(x)[-params.top_k]] = -np.inf
    p = softmax(x)
    keep, mass = np.zeros(len(p), dtype=bool), 0.0
    for id in sorted(range(len(p)), key=lambda i: -p[i]):
        keep[id] = mass < params.top_p
        mass += p[id]
    keep &= p >= params.min_p * p.max()
    return np.where(keep, p, 0) / p[keep].sum()


CASES = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "all": {"temperature": 1.4, "top_k": 15, "top_p": 0.9, "min_p": 0.03, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("size", [23, 200])
def test_draws_follow_the_distribution(options: dict[str, Any], size: int) -> None:
    logits = random_logits(size, 4, 1.5)
    params = SamplingParams(seed=20261121, **options)
    want = truth(logits, params)
    observed = counts(logits, params)
    assert observed[want == 0].sum() == 0, "a token came that cannot come"
    statistic, limit = chi_square(observed, want)
    assert statistic < limit


def test_alternatives_are_drawn_independently() -> None:
    logits = random_logits(23, 4, 1.5)
    params = SamplingParams(seed=7)
    statistic, limit = chi_square(counts(logits, params, alternatives=True), truth(logits, params))
    assert statistic < limit


def test_the_test_can_fail() -> None:
    logits = random_logits(23, 4, 1.5)
    observed = counts(logits, SamplingParams(seed=7, temperature=0.97))
    statistic, limit = chi_square(observed, truth(logits, SamplingParams()))
    assert statistic > limit


def test_pairs_of_neighbouring_draws_are_independent() -> None:
    u = np.array([_native.philox_uniform(1, 0, i) for i in range(DRAWS)])
    assert u.min() >= 0
    assert u.max() < 1
    for later in (u[1:], np.array([_native.philox_uniform(1, 1, i) for i in range(DRAWS - 1)])):
        cells = np.histogram2d(u[:-1], later, bins=16, range=[[0, 1], [0, 1]])[0].ravel()
        statistic, limit = chi_square(cells, np.full(256, 1 / 256))
        assert statistic < limit
