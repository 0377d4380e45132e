"""Inputs and native calls that the tests of this room share. Knows nothing of what the right answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from gpt2 import _native
from gpt2.decoding import RULE_ORDER, SamplingParams
from gpt2.engine.native_params import native_params as engine_params

Breakers: TypeAlias = Sequence[Sequence[int]]


def native_params(params: SamplingParams, eos: Sequence[int] = (), breakers: Breakers = ()) -> Any:
    """As the engine makes them, but that DRY's breakers are given in ids."""
    out = engine_params(params, params.seed or 0, frozenset(eos))
    out.stop_token_ids = list(params.stop_token_ids)
    out.dry_sequence_breakers = [list(ids) for ids in breakers]
    return out


def native_next(
    logits: Any,
    params: SamplingParams,
    history: Sequence[int] = (),
    generated: int = 0,
    alternative: int = 0,
    *,
    eos: Sequence[int] = (),
    breakers: Breakers = (),
    mask: Any = None,
    state: Any = None,
) -> tuple[int, float, list[tuple[int, float]]]:
    sampler = _native.Sampler(len(logits))
    ids = np.asarray(history, dtype=np.int32)
    options = native_params(params, eos, breakers)
    token, logprob, top = sampler.next(logits, options, ids, generated, alternative, mask, state)
    return token, logprob, top


def bits(allowed: Any) -> Any:
    """[ceil(V / 32)] uint32 from [V] bool."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, dtype=bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


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


IDS = st.integers(0, 1000)
"""Beyond the smallest vocabularies: fit() brings them inside."""

SHORT = st.lists(IDS, min_size=1, max_size=3).map(tuple)


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    """About a quarter of the rules are on, in any order, now and then in an order of their own."""

    def off_or(off: Any, values: st.SearchStrategy[Any]) -> Any:
        return draw(values) if draw(st.integers(0, 3)) == 0 else off

    params = SamplingParams(
        temperature=off_or(1.0, st.sampled_from([0.0, 1e-30, 0.01, 0.5, 0.8, 1.3, 10.0, 1e30])),
        dynatemp_range=off_or(0.0, st.sampled_from([0.3, 2.0])),
        dynatemp_exponent=off_or(1.0, st.floats(0.0, 3.0)),
        top_n_sigma=off_or(0.0, st.floats(0.01, 3.0)),
        top_h=off_or(0.0, st.floats(0.01, 1.0)),
        top_k=off_or(0, st.integers(1, 400)),
        top_p=off_or(1.0, st.floats(0.001, 1.0)),
        min_p=off_or(0.0, st.floats(0.0, 1.0)),
        typical_p=off_or(1.0, st.floats(0.001, 1.0)),
        epsilon_cutoff=off_or(0.0, st.floats(1e-6, 0.5)),
        eta_cutoff=off_or(0.0, st.floats(1e-6, 0.5)),
        xtc_probability=off_or(0.0, st.floats(0.01, 1.0)),
        xtc_threshold=draw(st.floats(0.01, 0.5)),
        mirostat=off_or(0, st.sampled_from([1, 2])),
        mirostat_tau=draw(st.floats(0.1, 9.0)),
        min_tokens_to_keep=off_or(1, st.integers(1, 5)),
        repetition_penalty=off_or(1.0, st.floats(0.5, 2.0)),
        frequency_penalty=off_or(0.0, st.floats(-1.0, 2.0)),
        presence_penalty=off_or(0.0, st.floats(-1.0, 2.0)),
        repeat_last_n=off_or(-1, st.integers(0, 9)),
        dry_multiplier=off_or(0.0, st.floats(0.1, 3.0)),
        dry_base=draw(st.floats(1.0, 2.0)),
        dry_allowed_length=draw(st.integers(1, 3)),
        dry_penalty_last_n=off_or(-1, st.integers(0, 20)),
        no_repeat_ngram_size=off_or(0, st.integers(1, 4)),
        logit_bias=off_or((), st.dictionaries(IDS, st.floats(-9, 9, width=32), max_size=3)),
        sequence_bias=off_or((), st.dictionaries(SHORT, st.floats(-9, 9, width=32), max_size=3)),
        bad_words_ids=off_or((), st.lists(SHORT, max_size=3)),
        suppress_tokens=off_or((), st.lists(IDS, max_size=3)),
        begin_suppress_tokens=off_or((), st.lists(IDS, max_size=3)),
        forced_bos_token_id=off_or(None, IDS),
        forced_eos_token_id=off_or((), st.lists(IDS, max_size=2)),
        forced_decoder_ids=off_or((), st.lists(st.tuples(st.integers(0, 5), IDS), max_size=2)),
        exponential_decay_length_penalty=off_or(None, st.tuples(st.integers(0, 2), st.floats(0.5, 1.5))),
        min_length=off_or(0, st.integers(0, 9)),
        min_new_tokens=draw(st.integers(0, 3)),
        max_new_tokens=draw(st.sampled_from([3, 5, 128])),
        stop_token_ids=(0,),
        seed=draw(st.integers(0, 2**64 - 1)),
    )
    order = draw(st.permutations(RULE_ORDER)) if draw(st.integers(0, 3)) == 0 else ()
    return params.replace(sampler_order=tuple(order))


def fit(params: SamplingParams, vocab_size: int) -> SamplingParams:
    """The same with ids that the vocabulary has."""

    def inside(value: Any) -> Any:
        return tuple(dict.fromkeys(id % vocab_size for id in value))

    return params.replace(
        logit_bias={id % vocab_size: bias for id, bias in params.logit_bias},
        sequence_bias={tuple(id % vocab_size for id in ids): bias for ids, bias in params.sequence_bias},
        bad_words_ids=[[id % vocab_size for id in ids] for ids in params.bad_words_ids],
        suppress_tokens=inside(params.suppress_tokens),
        begin_suppress_tokens=inside(params.begin_suppress_tokens),
        forced_eos_token_id=inside(params.forced_eos_token_id),
        forced_bos_token_id=None
        if params.forced_bos_token_id is None
        else params.forced_bos_token_id % vocab_size,
        forced_decoder_ids=[(at, id % vocab_size) for at, id in params.forced_decoder_ids],
    )
