"""Whatever a request's company, its bits are those that it has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import SamplingParams, _native
from gpt2.engine.generation import native_params

V, WINDOW = 151, 140


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2(
        n_embd=44, n_head=4, n_layer=3, n_positions=WINDOW, vocab_size=V, initializer_range=0.3
    )
    return saved(model, tmp_path_factory.mktemp("two-roads"))


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[tuple[str, str, int], gpt2.LanguageModel]:
    return {
        (isa, weights, threads): gpt2.load(folder, isa=isa, weights=weights, threads=threads)  # type: ignore[arg-type]
        for isa in _native.available_isas()
        for weights in ("float32", "bfloat16")
        for threads in (1, 2, 3)
    }


# Lengths at and around the edges of cache blocks (64) and of query tiles (6) are where such things break.
lengths = st.one_of(st.sampled_from([1, 5, 6, 7, 11, 12, 13, 63, 64, 65, 127, 128, 129]), st.integers(1, 130))
prompts = lengths.flatmap(lambda n: st.lists(st.integers(0, V - 1), min_size=n, max_size=n))
settings_of_a_request = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 1.5]),
        "top_k": st.sampled_from([0, 5, 40]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "no_repeat_ngram_size": st.sampled_from([0, 2]),
        "seed": st.integers(0, 2**64 - 1),
        "logprobs": st.just(2),
    }
)
requests = st.tuples(prompts, settings_of_a_request, st.integers(0, 3))
kinds = st.sampled_from([(isa, w) for isa in _native.available_isas() for w in ("float32", "bfloat16")])


def native_request(lm: gpt2.LanguageModel, request: Any) -> Any:
    ids, options, alternative = request
    params = SamplingParams(**options)
    native = native_params(params, options["seed"], frozenset())
    return _native.Request(lm._native, np.asarray(ids, dtype=np.int32), native, alternative)


def run_alone(lm: gpt2.LanguageModel, request: Any, steps: int) -> list[Any]:
    one = native_request(lm, request)
    return [lm._native.step([one])[0] for _ in range(steps)]


@given(st.lists(requests, min_size=1, max_size=8), kinds, st.sampled_from([1, 2, 3]), st.randoms())
@settings(max_examples=40)
def test_company_and_threads_never_change_the_answer(
    models: Any, mix: list[Any], kind: tuple[str, str], threads: int, random: Any
) -> None:
    """Requests join and leave at random; each gets the tokens and log-probabilities, to the bit, that it
    gets alone on one thread."""
    steps = 6
    alone = [run_alone(models[(*kind, 1)], request, steps) for request in mix]
    lm = models[(*kind, threads)]
    waiting = [(at, native_request(lm, request)) for at, request in enumerate(mix)]
    got: list[list[Any]] = [[] for _ in mix]
    while waiting:
        some = random.sample(waiting, random.randint(1, len(waiting)))
        for (at, _), choice in zip(some, lm._native.step([request for _, request in some]), strict=True):
            got[at].append(choice)
        waiting = [(at, request) for at, request in waiting if len(got[at]) < steps]
    assert got == alone


@given(prompts, kinds, st.sampled_from([1, 2, 3]), st.data())
@settings(max_examples=40)
def test_cached_equals_full_and_the_future_changes_nothing(
    models: Any, ids: list[int], kind: tuple[str, str], threads: int, data: Any
) -> None:
    lm = models[(*kind, threads)]
    full = lm.logits(ids)
    assert np.array_equal(full, models[(*kind, 1)].logits(ids))
    cut = data.draw(st.integers(1, len(ids)))
    assert np.array_equal(lm.logits(ids[:cut]), full[:cut])
    changed = list(ids)
    changed[cut - 1] = (changed[cut - 1] + 1) % V
    assert np.array_equal(lm.logits(changed)[: cut - 1], full[: cut - 1])


@given(prompts, kinds, st.integers(0, 3))
@settings(max_examples=30)
def test_a_step_with_a_cache_gives_the_logprobs_of_the_full_pass(
    models: Any, ids: list[int], kind: tuple[str, str], alternative: int
) -> None:
    lm = models[(*kind, 2)]
    steps = min(8, WINDOW - len(ids))
    request = native_request(lm, (ids, {"temperature": 1.0, "seed": 5, "logprobs": 0}, alternative))
    choices = [lm._native.step([request])[0] for _ in range(steps)]
    everything = [*ids, *(token for token, _, _ in choices)]
    assert request.ids == everything
    scored = lm._native.score(np.asarray(everything, dtype=np.int32))
    assert [logprob for _, logprob, _ in choices] == scored[len(ids) - 1 :].tolist()


@given(prompts, st.integers(1, 5), kinds)
@settings(max_examples=20)
def test_alternatives_share_the_prompt_and_nothing_else(
    models: Any, ids: list[int], n: int, kind: tuple[str, str]
) -> None:
    lm = models[(*kind, 2)]
    many = lm.generate(ids, n=5, seed=9, max_new_tokens=5)
    few = lm.generate([ids], n=n, seed=9, max_new_tokens=5)
    assert few == many[:n]
