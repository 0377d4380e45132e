"""The rules that only llama.cpp has (or the OpenAI API), beside their documented formulas, written out here
in plain loops; and the draws of every stochastic one, 100,000 of each, beside the distribution that the
formula gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decoding.rules import native_params, random_logits
from decoding.test_distribution import DRAWS, chi_square, softmax
from gpt2 import _native
from gpt2.decoding import SamplingParams, sampling

SEEDS = range(40)


def native_scores(
    logits: Any, params: SamplingParams, history: list[int], generated: int = 0, breakers: Any = ()
) -> Any:
    ids = np.asarray(history, dtype=np.int32)
    native = native_params(params, breakers=breakers)
    return _native.Sampler(len(logits)).process(logits, native, ids, generated, draw_rules=False)


def dry(logits: Any, ids: list[int], multiplier: float, base: float, allowed: int, breakers: Any) -> Any:
    """For every token: would it extend a repetition, how long is that one, and so what does it cost?"""
    out = logits.astype(np.float64)
    for token in range(len(out)):
        longest = 0
        for at, other in enumerate(ids):
            if other != token:
                continue
            for n in range(1, at + 1):  # ids[at - n : at] was followed by this token
                run = ids[len(ids) - n :]
                cut = any(run[i : i + len(b)] == list(b) for b in breakers for i in range(n - len(b) + 1))
                # A breaker of several tokens ends the run if its last token lies in it.
                cut = cut or any(
                    ids[len(ids) - n - j : len(ids) - n - j + len(b)] == list(b)
                    for b in breakers
                    for j in range(1, len(b))
                    if len(ids) - n - j >= 0
                )
                if ids[at - n : at] == run and not cut:
                    longest = max(longest, n)
        if longest >= allowed:
            out[token] -= multiplier * base ** (longest - allowed)
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_dry(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3 + seed % 4, size=seed % 30).tolist()
    logits = random_logits(12, seed)
    breakers = [(), ((2,),), ((1, 0),), ((2,), (0, 1, 1))][seed % 4]
    allowed, window = 1 + seed % 3, [-1, 0, 7, 100][seed % 4]
    params = SamplingParams(
        dry_multiplier=0.7, dry_base=1.6, dry_allowed_length=allowed, dry_penalty_last_n=window
    )
    seen = ids if window < 0 else ids[max(0, len(ids) - window) :]
    want = dry(logits, seen, 0.7, 1.6, allowed, breakers)
    readable = sampling.apply_history_rules(logits, params, ids, breakers=breakers)
    np.testing.assert_allclose(readable, want, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(native_scores(logits, params, ids, breakers=breakers), readable)


def test_dry_of_a_long_run_is_finite_and_fast() -> None:
    params = SamplingParams(dry_multiplier=1.0, dry_base=1.9)
    scores = native_scores(random_logits(50, 1), params, [7] * 5000)
    assert scores[7] < -1e37
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_frequency_and_presence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompt, text = rng.integers(0, 9, size=5).tolist(), rng.integers(0, 9, size=seed).tolist()
    window = [-1, 3, 0, 50][seed % 4]
    params = SamplingParams(frequency_penalty=0.4, presence_penalty=-0.3, repeat_last_n=window)
    logits = random_logits(12, seed)
    counted = text if window < 0 else text[max(0, len(text) - window) :]
    want = [x - counted.count(id) * 0.4 + (id in counted) * 0.3 for id, x in enumerate(logits)]
    readable = sampling.apply_history_rules(logits, params, prompt + text, len(text))
    np.testing.assert_allclose(readable, want, atol=1e-5)
    np.testing.assert_array_equal(native_scores(logits, params, prompt + text, len(text)), readable)


def test_logit_bias_is_added_first_and_repeat_last_n_is_a_window() -> None:
    logits = random_logits(12, 1)
    params = SamplingParams(logit_bias={3: 2.0, 4: -math.inf}, repetition_penalty=2.0, repeat_last_n=2)
    got = native_scores(logits, params, [5, 3, 6])
    want = logits.copy()
    want[3] += 2
    want[4] = -np.inf
    want[[3, 6]] = np.where(want[[3, 6]] < 0, want[[3, 6]] * 2, want[[3, 6]] / 2)
    np.testing.assert_array_equal(got, want)


def test_forced_decoder_ids_come_at_their_positions() -> None:
    logits = random_logits(12, 1)
    params = SamplingParams(forced_decoder_ids=[[3, 7], [5, 2]])
    for length in range(7):
        token = {3: 7, 5: 2}.get(length)
        got = native_scores(logits, params, [0] * length)
        if token is None:
            np.testing.assert_array_equal(got, logits)
        else:
            assert np.flatnonzero(np.isfinite(got)).tolist() == [token]


# The truth of the filters: probabilities [V] in, whether each token stays. `p` sums to 1.


def nucleus_of_entropy(p: Any, part: float) -> Any:
    order = sorted(range(len(p)), key=lambda i: -p[i])[:100]
    q = [p[i] / sum(p[j] for j in order) for i in order]
    limit, sum_, keep = part * -sum(x * math.log(x) for x in q), 0.0, np.zeros(len(p), dtype=bool)
    for rank, (i, x) in enumerate(zip(order, q, strict=True)):
        sum_ -= x * math.log(x)
        keep[i] = rank == 0 or sum_ <= limit
    return keep


def typical(p: Any, mass: float) -> Any:
    h = -sum(x * math.log(x) for x in p)
    keep, sum_ = np.zeros(len(p), dtype=bool), 0.0
    for i in sorted(range(len(p)), key=lambda i: abs(-math.log(p[i]) - h)):
        keep[i] = sum_ < mass
        sum_ += p[i]
    return keep


def sigma(p: Any, n: float) -> Any:
    x = np.log(p)
    return x >= x.max() - n * math.sqrt(((x - x.mean()) ** 2).mean())


def eta(p: Any, epsilon: float) -> Any:
    h = -sum(x * math.log(x) for x in p)
    return p >= min(epsilon, math.sqrt(epsilon) * math.exp(-h))


def mirostat_2(p: Any, tau: float) -> Any:
    return -np.log2(p) <= 2 * tau


def mirostat_1(p: Any, tau: float) -> Any:
    q = sorted(p, reverse=True)[:100]
    t = [math.log((i + 2) / (i + 1)) for i in range(len(q) - 1)]
    b = [math.log(q[i] / q[i + 1]) for i in range(len(q) - 1)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
    e = s - 1
    k = ((e * 2 ** (2 * tau)) / (1 - len(p) ** -e)) ** (1 / s)
    return p >= sorted(p, reverse=True)[min(len(p), max(1, int(k))) - 1]


TRUTHS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "typical_p": ({"typical_p": 0.6}, lambda p: typical(p, 0.6)),
    "epsilon": ({"epsilon_cutoff": 0.02}, lambda p: p >= 0.02),
    "eta": ({"eta_cutoff": 0.3}, lambda p: eta(p, 0.3)),
    "top_n_sigma": ({"top_n_sigma": 1.2}, lambda p: sigma(p, 1.2)),
    "top_h": ({"top_h": 0.6}, lambda p: nucleus_of_entropy(p, 0.6)),
    "mirostat 1": ({"mirostat": 1, "mirostat_tau": 1.5}, lambda p: mirostat_1(p, 1.5)),
    "mirostat 2": ({"mirostat": 2, "mirostat_tau": 1.6}, lambda p: mirostat_2(p, 1.6)),
}


def counts(logits: Any, params: SamplingParams) -> Any:
    """How often each token comes in DRAWS texts that begin, [V]: mirostat's state is fresh in each."""
    sampler, native, nothing = _native.Sampler(len(logits)), native_params(params), np.empty(0, np.int32)
    return np.bincount(
        [sampler.next(logits, native, nothing, i)[0] for i in range(DRAWS)], minlength=len(logits)
    )


def check(logits: Any, options: dict[str, Any], want: Any) -> None:
    observed = counts(logits, SamplingParams(seed=20261121, **options))
    assert observed[want == 0].sum() == 0, "a token came that cannot come"
    statistic, limit = chi_square(observed, want)
    assert statistic < limit


@pytest.mark.parametrize("name", TRUTHS)
def test_draws_follow_the_formula(name: str) -> None:
    options, keeps = TRUTHS[name]
    logits = random_logits(40, 4, 1.5)
    p = softmax(logits.astype(np.float64))
    keep = keeps(p)
    assert 0 < keep.sum() < 40, "the case says something"
    check(logits, options, np.where(keep, p, 0) / p[keep].sum())


def test_xtc_draws_follow_the_formula() -> None:
    """With probability 0.4 the tokens of at least 0.1 are gone, but the least probable of them."""
    p = np.array([0.2, 0.05, 0.3, 0.03, 0.15, 0.12, 0.08, 0.07])
    logits = np.log(p).astype(np.float32)
    rest = np.array([0, 0.05, 0, 0.03, 0, 0.12, 0.08, 0.07])
    check(logits, {"xtc_probability": 0.4}, 0.6 * p + 0.4 * rest / rest.sum())


def test_a_small_temperature_after_xtc_leaves_the_best_of_the_rest() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    order = ("xtc_probability", "temperature")
    params = SamplingParams(xtc_probability=1.0, temperature=1e-30, sampler_order=order)
    nothing = np.empty(0, np.int32)
    assert sampling.next_token(logits, params) == 2
    assert _native.Sampler(4).next(logits, native_params(params), nothing)[0] == 2


def test_dynamic_temperature_draws_follow_the_formula() -> None:
    logits = random_logits(40, 4, 1.5)
    p = softmax(logits.astype(np.float64))
    h = -(p * np.log(p)).sum() / math.log(40)
    t = 0.3 + (1.7 - 0.3) * h**1.5
    options = {"temperature": 1.0, "dynatemp_range": 0.7, "dynatemp_exponent": 1.5}
    check(logits, options, softmax(logits.astype(np.float64) / t))


def test_mirostat_follows_its_target_and_its_state_is_the_formula() -> None:
    for version in (1, 2):
        params = SamplingParams(mirostat=version, mirostat_tau=3.0, mirostat_eta=0.2, seed=5)
        native, state, readable = native_params(params), _native.SamplerState(), sampling.State()
        surprises, mu = [], 6.0
        for i in range(200):
            logits = random_logits(300, i, 1.5)
            kept = mirostat_1 if version == 1 else mirostat_2
            p = softmax(logits.astype(np.float64))
            left = p / p[kept(p, mu / 2)].sum()
            sampler = _native.Sampler(300)
            token = sampler.next(logits, native, np.empty(0, np.int32), i, state=state)[0]
            assert token == sampling.next_token(logits, params, generated=i, state=readable)
            surprises.append(-math.log2(left[token]))
            mu -= 0.2 * (surprises[-1] - 3.0)
            assert state.mu == pytest.approx(mu, abs=1e-4)
            assert readable.mu == pytest.approx(mu, abs=1e-4)
        assert np.mean(surprises[50:]) == pytest.approx(3.0, abs=0.2)


def test_a_copied_state_goes_on_as_the_original() -> None:
    params, logits = native_params(SamplingParams(mirostat=2)), random_logits(100, 1)
    state, sampler, nothing = _native.SamplerState(), _native.Sampler(100), np.empty(0, np.int32)
    sampler.next(logits, params, nothing, 0, state=state)
    copied = state.copy()
    first = [sampler.next(logits, params, nothing, i, state=state)[0] for i in range(1, 20)]
    again = [sampler.next(logits, params, nothing, i, state=copied)[0] for i in range(1, 20)]
    assert first == again
    assert state.mu == copied.mu
