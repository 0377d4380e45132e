"""Guessing changes how many steps a text takes and nothing else: tokens, log-probabilities, ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import errors
from gpt2.decoding.strategies.speculation import Adaptive, Lookup

V, WINDOW = 61, 100


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a smaller one of the same vocabulary with a shorter window."""
    shape = {"n_head": 2, "vocab_size": V, "initializer_range": 0.3}
    large = random_gpt2(n_embd=32, n_layer=3, n_positions=WINDOW, **shape)
    small = random_gpt2(n_embd=16, n_layer=1, n_positions=70, **shape)
    folder = tmp_path_factory.mktemp("speculation")
    return saved(large, folder / "large"), saved(small, folder / "small")


@pytest.fixture(scope="module")
def lm(folders: tuple[Path, Path]) -> gpt2.LanguageModel:
    return gpt2.load(folders[0], threads=1)


@pytest.fixture(scope="module")
def small(folders: tuple[Path, Path]) -> gpt2.LanguageModel:
    return gpt2.load(folders[1], threads=1)


@pytest.fixture(scope="module")
def quantised(folders: tuple[Path, Path]) -> gpt2.LanguageModel:
    """The same model with coarser weights: a draft model that is nearly always right."""
    return gpt2.load(folders[0], threads=1, weights="bfloat16")


def prompt(length: int, seed: int, period: int) -> list[int]:
    ids = np.random.default_rng(seed).integers(0, V, period)
    return np.resize(ids, length).tolist()  # type: ignore[no-any-return]


prompts = st.builds(
    prompt, st.sampled_from([1, 2, 20, 63, 64, 65, WINDOW]), st.integers(0, 3), st.integers(1, 9)
)
options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.2]),
        "seed": st.integers(0, 2**32),
        "logprobs": st.sampled_from([None, 1]),
        "n": st.integers(1, 3),
        "max_new_tokens": st.integers(1, 60),
        "overflow": st.sampled_from(["stop", "slide"]),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.sampled_from([(), (7, 9)]),
    }
)


@given(st.lists(prompts, min_size=1, max_size=4), options, st.integers(1, 12), st.integers(1, 4))
@settings(max_examples=25)
def test_lookup_changes_nothing(lm: Any, mix: Any, how: Any, guesses: int, longest: int) -> None:
    expected = lm.generate(mix, **how)
    lookup = {"prompt_lookup_num_tokens": guesses, "max_matching_ngram_size": longest}
    assert lm.generate(mix, **how, **lookup) == expected
    assert lm.stats().blocks_used == 0


@given(st.lists(prompts, min_size=1, max_size=4), options, st.booleans())
@settings(max_examples=20)
def test_a_draft_model_changes_nothing(
    lm: Any, small: Any, quantised: Any, mix: Any, how: Any, good: bool
) -> None:
    assistant = quantised if good else small
    assert lm.generate(mix, **how, assistant_model=assistant) == lm.generate(mix, **how)
    assert lm.stats().blocks_used == assistant.stats().blocks_used == 0


def test_right_guesses_save_steps(lm: gpt2.LanguageModel, quantised: gpt2.LanguageModel) -> None:
    def steps(**how: Any) -> int:
        before = lm.stats().steps
        lm.generate([1, 2, 3], temperature=0, seed=0, max_new_tokens=90, ignore_eos=True, **how)
        return lm.stats().steps - before

    assert steps() == 90
    assert steps(prompt_lookup_num_tokens=8) < 75  # greedy text of a random model soon repeats itself
    assert steps(assistant_model=quantised) < 30


def test_a_guess_that_ends_the_text_is_its_last_token(lm: gpt2.LanguageModel) -> None:
    plain: Any = lm.generate([1, 2, 3], temperature=0, seed=0, max_new_tokens=90, ignore_eos=True)
    again = [token for at, token in enumerate(plain.tokens) if token in plain.tokens[:at]]
    end = again[len(again) // 2]
    how: Any = {
        "temperature": 0,
        "seed": 0,
        "max_new_tokens": 90,
        "ignore_eos": True,
        "stop_token_ids": [end],
    }
    assert lm.generate([1, 2, 3], **how, prompt_lookup_num_tokens=8) == lm.generate([1, 2, 3], **how)


def test_streams_are_the_same_text(lm: gpt2.LanguageModel, quantised: gpt2.LanguageModel) -> None:
    how: Any = {"temperature": 0, "seed": 0, "max_new_tokens": 40}
    (*_, last) = lm.stream([1, 2, 3], **how, assistant_model=quantised)
    assert last.completion == lm.generate([1, 2, 3], **how)


def test_lookup_takes_the_longest_match_and_the_latest_of_those() -> None:
    lookup = Lookup(most=3, longest=2)
    assert lookup.guesses([1, 2, 3, 1, 2, 4, 9, 2], 3) == [4, 9, 2]
    assert lookup.guesses([1, 2, 3, 1, 2, 4, 9, 2, 3, 1], 3) == [2, 4, 9]
    assert lookup.guesses([1, 2, 3, 1, 2, 4, 9, 2, 3, 1, 8], 3) == []
    assert Lookup(most=3, longest=2).guesses([5, 5], 3) == [5, 5, 5]
    assert Lookup(most=5, longest=2).guesses([8, 9, 8, 9], 5) == [8, 9, 8, 9, 8]


def test_the_number_of_guesses_follows_what_was_right() -> None:
    adaptive = Adaptive(4, 10)
    assert adaptive.count == 4
    adaptive.learn(4, 4)
    assert adaptive.count == 8
    adaptive.learn(8, 8)
    assert adaptive.count == 10
    adaptive.learn(10, 2)
    assert adaptive.count == 3
    adaptive.learn(3, 0)
    assert adaptive.count == 1
    adaptive.learn(0, 0)
    assert adaptive.count == 1


def test_what_contradicts_is_refused(lm: gpt2.LanguageModel, small: gpt2.LanguageModel) -> None:
    with pytest.raises(errors.InvalidRequest, match="the model itself"):
        lm.generate([1], assistant_model=lm)
    with pytest.raises(errors.InvalidRequest, match="vocabulary"):
        lm.generate([1], assistant_model=gpt2.load("demo"))  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="contradict"):
        lm.generate([1], assistant_model=small, prompt_lookup_num_tokens=3)
    with pytest.raises(errors.InvalidRequest, match="contradict"):
        lm.generate([1], max_matching_ngram_size=3)
