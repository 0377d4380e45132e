"""Inputs and native calls that the tests of this room share. Knows nothing of what the right answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gpt2 import _native
from gpt2.decoding import SamplingParams

NATIVE_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
)


def native_params(params: SamplingParams) -> Any:
    out = _native.SamplerParams()
    for name in NATIVE_FIELDS:
        setattr(out, name, getattr(params, name))
    out.stop_token_ids = list(params.stop_token_ids)
    out.seed = params.seed or 0
    out.logprobs = -1 if params.logprobs is None else params.logprobs
    return out


def native_next(
    logits: Any, params: SamplingParams, history: Sequence[int] = (), generated: int = 0, alternative: int = 0
) -> tuple[int, float, list[tuple[int, float]]]:
    sampler = _native.Sampler(len(logits))
    ids = np.asarray(history, dtype=np.int32)
    token, logprob, top = sampler.next(logits, native_params(params), ids, generated, alternative)
    return token, logprob, top


def random_logits(size: int, seed: int, scale: float = 3.0) -> Any:
    """[size] float32, normal with this standard deviation."""
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


# Sizes around the block of 64 and its lanes; the last two are not multiples of anything.
SIZES = [1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 127, 129, 333, 1021]


@st.composite
def logits_arrays(draw: st.DrawFn) -> Any:
    """[V] float32: smooth, tied, peaked, partly banned, or so large that float32 nearly ends."""
    size = draw(st.sampled_from(SIZES))
    x = random_logits(size, draw(st.integers(0, 2**32)), draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 50.0])))
    if draw(st.booleans()):
        x = np.round(x)
    if draw(st.booleans()):
        x += np.float32(draw(st.sampled_from([-1e4, 1e4, 1e6, -3e38, 3e38])))
    if size > 1 and draw(st.booleans()):
        banned = np.random.default_rng(draw(st.integers(0, 99))).random(size) < 0.3
        banned[draw(st.integers(0, size - 1))] = False
        x[banned] = -np.inf
    return x


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    def off_or(off: Any, values: st.SearchStrategy[Any]) -> Any:
        return draw(st.one_of(st.just(off), values))

    return SamplingParams(
        temperature=off_or(1.0, st.sampled_from([0.0, 1e-30, 0.01, 0.5, 0.8, 1.3, 10.0, 1e30])),
        top_k=off_or(0, st.integers(1, 400)),
        top_p=off_or(1.0, st.floats(0.001, 1.0)),
        min_p=off_or(0.0, st.floats(0.0, 1.0)),
        repetition_penalty=off_or(1.0, st.floats(0.5, 2.0)),
        no_repeat_ngram_size=off_or(0, st.integers(1, 4)),
        min_new_tokens=draw(st.integers(0, 3)),
        stop_token_ids=(0,),
        seed=draw(st.integers(0, 2**64 - 1)),
    )
