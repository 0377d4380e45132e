"""The native sampler and its readable twin choose the same token, whatever the logits and the options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from decoding.rules import bits, fit, logits_arrays, native_next, random_logits, sampling_params
from gpt2 import _native
from gpt2.decoding import SamplingParams, sampling
from gpt2.errors import EngineError, InvalidRequest

# The native weights are float32 with a relative error of 2^-22; the border between two tokens, which is a sum
# of weights over a sum of weights, moves by at most twice that part of the total.
BORDER = 2.0**-21


def fits(token: int, z: Any, uniform: float) -> bool:
    """Whether the draw `uniform` lies in this token's part of the cumulative weights, give or take BORDER."""
    weights = sampling.weigh(z)
    cumulative = np.cumsum(weights)
    total = cumulative[-1]
    low = cumulative[token] - weights[token] - BORDER * total
    return bool(weights[token] > 0 and low <= uniform * total <= cumulative[token] + BORDER * total)


THRESHOLDS = (
    "top_n_sigma",
    "top_h",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc_threshold",
    "mirostat_tau",
    "temperature",
)
"""Fields whose border may move by the rounding of the weights."""


def nearby(params: SamplingParams) -> Iterator[SamplingParams]:
    """The same options, and each threshold a little lower and a little higher."""
    yield params
    for name in THRESHOLDS:
        for factor in (1.0 - 4 * BORDER, 1.0 + 4 * BORDER):
            try:
                yield params.replace(**{name: getattr(params, name) * factor})
            except InvalidRequest:
                continue  # beyond the range of the option


# A failing case has some seventy options: it is printed as it is, since to shrink it takes minutes.
@settings(max_examples=200, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    logits=logits_arrays(),
    params=sampling_params(),
    history=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 1000)), max_size=30),
    generated=st.integers(0, 5),
    alternative=st.integers(0, 3),
    data=st.data(),
)
def test_native_equals_numpy(
    logits: Any,
    params: SamplingParams,
    history: list[int],
    generated: int,
    alternative: int,
    data: st.DataObject,
) -> None:
    size = len(logits)
    params = fit(params, size)
    # An end-of-text token alone is no bad word to the engine, which is what makes the native options.
    words = [ids for ids in params.bad_words_ids if ids != (size - 1,)]
    params = params.replace(bad_words_ids=words)
    mask = None
    if data.draw(st.integers(0, 4)) == 0:
        mask = bits(np.random.default_rng(data.draw(st.integers(0, 99))).random(size) < 0.5)
    mu = data.draw(st.one_of(st.none(), st.floats(0.1, 20.0)))
    place = {
        "history": [id % size for id in history],
        "generated": min(generated, len(history)),
        "alternative": alternative,
        "eos": (size - 1,),
        "breakers": ((1 % size,), (2 % size, 3 % size)),
        "mask": mask,
    }
    before = logits.copy()
    state, native_state = sampling.State(mu), _native.SamplerState()
    native_state.mu = math.nan if mu is None else mu
    want = refusal = None
    try:
        want = sampling.next_token(logits, params, **place, state=state)
    except InvalidRequest as error:
        refusal = error
    if refusal is not None:  # the rules left nothing: both must say so
        with pytest.raises(InvalidRequest) as caught:
            native_next(logits, params, **place, state=native_state)
        assert caught.value.what == refusal.what
        return
    token, _, _ = native_next(logits, params, **place, state=native_state)
    np.testing.assert_array_equal(logits, before)
    if token == want:
        if params.mirostat and params.temperature > 0:
            # surprise is a log2 of a ratio of weights; tau cancels or weighs 0.1
            assert abs(native_state.mu - state.mu) < 1e-3
        else:
            assert native_state.mu == mu or (mu is None and math.isnan(native_state.mu))
        return
    # Not the same: the draw, or the limit of a filter, must lie on the border itself.
    uniform = sampling.philox_uniform(params.seed or 0, alternative, place["generated"])
    assert params.temperature > 0
    for other in nearby(params):
        scores = sampling.apply_rules(logits, other, sampling.Place(**place, state=sampling.State(mu)))
        if fits(token, scores, uniform):
            return
    pytest.fail(f"native {token}, numpy {want}, V={size}, uniform={uniform!r}, {params}, {place}")


def test_they_differ_so_seldom_that_it_is_rounding() -> None:
    logits = random_logits(50257, 1)
    params = SamplingParams(top_p=0.97, temperature=0.9, seed=5)
    pairs = [
        (native_next(logits, params, generated=i)[0], sampling.next_token(logits, params, generated=i))
        for i in range(200)
    ]
    assert sum(a != b for a, b in pairs) <= 2


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_the_draws_are_the_same_bits(seed: int, alternative: int, position: int) -> None:
    want = sampling.philox_uniform(seed, alternative, position)
    assert _native.philox_uniform(seed, alternative, position) == want


@given(logits=logits_arrays(), data=st.data())
def test_log_probabilities(logits: Any, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    want = sampling.log_softmax(logits)
    # 1e-6 from the weights, half a unit in the last place from the result's rounding to float32.
    np.testing.assert_allclose(_native.log_softmax_at(logits, token), want[token], rtol=2.0**-24, atol=1e-6)
    chosen, logprob, top = native_next(logits, SamplingParams(logprobs=5, repetition_penalty=1.5, top_k=2))
    np.testing.assert_allclose(logprob, want[chosen], rtol=2.0**-24, atol=1e-6)
    order = np.argsort(-logits, kind="stable")[:5]
    assert [id for id, _ in top] == order.tolist()
    np.testing.assert_allclose([lp for _, lp in top], want[order], rtol=2.0**-24, atol=1e-6)
    assert _native.top_n(logits, 5) == top


@pytest.mark.parametrize("bad", [np.nan, np.inf, "all"])
def test_broken_logits_are_an_error_of_the_same_kind(bad: Any) -> None:
    logits = random_logits(100, 1)
    logits[:] = -np.inf if bad == "all" else logits
    if bad != "all":
        logits[77] = bad
    for choose in (native_next, sampling.next_token):
        with pytest.raises(EngineError, match="logits"):
            choose(logits, SamplingParams())


@pytest.mark.parametrize("ids", [[-1], [5], [2**31 - 1]])
def test_ids_outside_the_vocabulary_are_refused_alike(ids: list[int]) -> None:
    logits = random_logits(5, 1)
    with pytest.raises(InvalidRequest, match="history"):
        native_next(logits, SamplingParams(repetition_penalty=1.1), ids)
    with pytest.raises(InvalidRequest, match="history"):
        sampling.next_token(logits, SamplingParams(repetition_penalty=1.1), history=ids)


def test_a_wrong_number_of_logits_is_refused() -> None:
    sampler = _native.Sampler(10)
    with pytest.raises(InvalidRequest, match="logits"):
        sampler.next(random_logits(9, 1), _native.SamplerParams(), np.empty(0, np.int32))
