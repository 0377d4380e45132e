"""What can be said of the rules in one example each; the native sampler follows by test_parity."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from decoding.rules import native_next, random_logits
from gpt2.decoding import SamplingParams
from gpt2.decoding.sampling import (
    ban_repeated_ngrams,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_softmax,
    next_token,
    penalise_repetition,
    philox_uniform,
    probabilities,
)


def array(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def kept(z: Any) -> list[int]:
    return np.flatnonzero(np.isfinite(z)).tolist()


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert next_token(array(1, 3, 2, 3), SamplingParams(temperature=0)) == 1
    assert (
        next_token(array(1, 3, 2, 3), SamplingParams(temperature=0, repetition_penalty=2), history=[1]) == 3
    )
    assert probabilities(array(1, 3, 2, 3), SamplingParams(temperature=0)).tolist() == [0, 1, 0, 0]


def test_the_example_of_keep_top_p() -> None:
    z = np.log(array(0.5, 0.3, 0.2))
    assert kept(keep_top_p(z, 0.6)) == [0, 1]
    assert kept(keep_top_p(z, 0.4)) == [0]
    assert kept(keep_top_p(z, 1e-12)) == [0]
    assert kept(keep_top_p(array(0, 0, 0, 0), 0.5)) == [0, 1]


def test_top_k_keeps_ties_and_min_p_the_best() -> None:
    assert kept(keep_top_k(array(0, -1, -1, -2), 2)) == [0, 1, 2]
    assert kept(keep_top_k(array(0, -1), 9)) == [0, 1]
    assert kept(keep_min_p(array(0, -0.1, 0), 1.0)) == [0, 2]


def test_a_repeated_token_is_penalised_once() -> None:
    assert penalise_repetition(array(2, -2, 5), [0, 0, 1], 2).tolist() == [1, -4, 5]


def test_n_grams() -> None:
    scores = array(0, 0, 0, 0)
    assert kept(ban_repeated_ngrams(scores, [0, 2, 1, 0], 2)) == [0, 1, 3]
    assert kept(ban_repeated_ngrams(scores, [0, 2, 1, 0], 1)) == [3]
    assert kept(ban_repeated_ngrams(scores, [0], 2)) == [0, 1, 2, 3]
    assert kept(ban_repeated_ngrams(scores, [1, 1, 1], 3)) == [0, 2, 3]


def test_nothing_changes_its_input() -> None:
    logits = random_logits(50, 1)
    before = logits.copy()
    everything = SamplingParams(
        temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.2, no_repeat_ngram_size=1
    )
    next_token(logits, everything, history=[1, 2])
    log_softmax(logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("choose", [next_token, native_next])
def test_a_draw_does_not_depend_on_the_draws_before_it(choose: Any) -> None:
    """Any order, any subset, any number of times: position and alternative alone decide."""
    logits = random_logits(100, 3, 1.0)
    params = SamplingParams(seed=11, top_p=0.9)
    places = [(g, a) for g in range(40) for a in range(3)]
    straight = {p: choose(logits, params, generated=p[0], alternative=p[1]) for p in places}
    shuffled = random.Random(0).choices(places, k=300)
    assert all(choose(logits, params, generated=g, alternative=a) == straight[g, a] for g, a in shuffled)
    other = {p: choose(logits, params.replace(seed=12), generated=p[0], alternative=p[1]) for p in places}
    assert sum(other[p] != straight[p] for p in places) > 60


def test_philox_known_answer() -> None:
    # Random123 tests/kat_vectors, philox4x32 10, zero counter and key: 6627e8d5 e169c58d ...
    assert philox_uniform(0, 0, 0) == (0xE169C58D6627E8D5 >> 11) * 2.0**-53


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-6, 1.0])
def test_a_temperature_near_zero_is_greedy_and_never_overflows(temperature: float) -> None:
    logits = array(-3e38, 1, 3e38, 2)
    params = SamplingParams(temperature=temperature)
    for generated in range(20):
        assert next_token(logits, params, generated=generated) == 2
        assert native_next(logits, params, generated=generated)[0] == 2


def test_a_huge_temperature_makes_all_tokens_equal() -> None:
    p = probabilities(array(-1e4, 1e4, 0), SamplingParams(temperature=1e38))
    np.testing.assert_allclose(p, 1 / 3)
