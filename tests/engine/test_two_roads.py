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
from gpt2.engine.native_params import native_params
from machine import isas

V, WINDOW = 151, 140


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2(
        n_embd=44, n_head=4, n_layer=3, n_positions=WINDOW, vocab_size=V, initializer_range=0.3
    )
    return saved(model, tmp_path_factory.mktemp("two-roads"))


Kind = tuple[str, str, str]
"""Instruction set, weights, cache."""


class Models(dict[tuple[str, str, str, int], gpt2.LanguageModel]):
    """A model of each kind and number of threads, loaded when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, key: tuple[str, str, str, int]) -> gpt2.LanguageModel:
        isa, weights, cache, threads = key
        how: Any = {"isa": isa, "weights": weights, "cache": cache, "threads": threads}
        self[key] = gpt2.load(self.folder, **how)
        return self[key]


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return Models(folder)


# Lengths at and around the edges of cache blocks (64) and of query tiles (6) are where such things break.
lengths = st.one_of(st.sampled_from([1, 5, 6, 7, 11, 12, 13, 63, 64, 65, 127, 128, 129]), st.integers(1, 130))


def tokens(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, V, length).tolist()  # type: ignore[no-any-return]


# Few seeds: prompts often begin alike.
prompts = st.builds(tokens, lengths, st.integers(0, 3))
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
WIDTHS = [
    ("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "int8"),
    ("int8", "float32"), ("int8", "int8"), ("int4", "int8"), ("int4", "bfloat16"),
]  # fmt: skip
kinds = st.sampled_from([(isa, *widths) for isa in isas() for widths in WIDTHS])


def submit(lm: gpt2.LanguageModel, box: Any, request: Any, max_new_tokens: int, **how: Any) -> Any:
    ids, options, alternative = request
    native = native_params(SamplingParams(**options), options["seed"], frozenset())
    array = np.asarray(ids, dtype=np.int32)
    number = box.submit(array, native, max_new_tokens, alternatives=alternative + 1, **how)
    for other in range(alternative):
        box.cancel(number, other)
    return number, alternative


def answers(box: Any) -> dict[Any, list[Any]]:
    """For each alternative what it got: (token, logprob, most probable, slides, why it ended)."""
    got: dict[Any, list[Any]] = {}
    while events := box.wait():
        for request, alternative, *rest, error in events:
            assert error is None
            got.setdefault((request, alternative), []).append(rest)
    return got


def run_alone(lm: gpt2.LanguageModel, request: Any, steps: int) -> list[Any]:
    box = _native.Mailbox(lm._native)
    key = submit(lm, box, request, steps, share_prefix=False)
    return answers(box)[key]


@given(st.lists(requests, min_size=1, max_size=8), kinds, st.sampled_from([1, 2, 3]), st.randoms())
@settings(max_examples=40)
def test_company_and_threads_never_change_the_answer(
    models: Any, mix: list[Any], kind: Kind, threads: int, random: Any
) -> None:
    """Requests join at random; each gets the tokens and log-probabilities, to the bit, that it gets alone on
    one thread and without the prefix cache."""
    steps = 6
    alone = [run_alone(models[(*kind, 1)], request, steps) for request in mix]
    lm = models[(*kind, threads)]
    box = _native.Mailbox(lm._native)
    waiting = list(mix)
    keys: list[Any] = []
    got: dict[Any, list[Any]] = {}
    while waiting or box.live:
        for _ in range(random.randint(0 if box.live else 1, len(waiting))):
            keys.append(submit(lm, box, waiting.pop(0), steps, share_prefix=random.random() < 0.8))
        for request, alternative, *rest, error in box.wait():
            assert error is None
            got.setdefault((request, alternative), []).append(rest)
    assert [got[key] for key in keys] == alone


@given(prompts, kinds, st.sampled_from([1, 2, 3]), st.data())
@settings(max_examples=40)
def test_cached_equals_full_and_the_future_changes_nothing(
    models: Any, ids: list[int], kind: Kind, threads: int, data: Any
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
    models: Any, ids: list[int], kind: Kind, alternative: int
) -> None:
    lm = models[(*kind, 2)]
    steps = min(8, WINDOW - len(ids))
    choices = run_alone(lm, (ids, {"temperature": 1.0, "seed": 5, "logprobs": 0}, alternative), steps)
    everything = [*ids, *(token for token, *_ in choices)]
    scored = lm._native.score(np.asarray(everything, dtype=np.int32))
    assert [logprob for _, logprob, *_ in choices] == scored[len(ids) - 1 :].tolist()


@given(prompts, st.integers(1, 5), kinds)
@settings(max_examples=20)
def test_alternatives_share_the_prompt_and_nothing_else(
    models: Any, ids: list[int], n: int, kind: Kind
) -> None:
    lm = models[(*kind, 2)]
    many = lm.generate(ids, n=5, seed=9, max_new_tokens=5)
    few = lm.generate([ids], n=n, seed=9, max_new_tokens=5)
    assert few == many[:n]
