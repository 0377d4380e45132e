"""Each rule keeps, bans and changes what the class of transformers does, in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoding.rules import random_logits
from gpt2.decoding import SamplingParams, sampling

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
hf = transformers.generation.logits_process

SEEDS = range(60)
PROMPT = 6  # of the ids in history()


def logits_of(seed: int) -> Any:
    """[V] float32 without ties, V between 20 and 800, peaked or flat."""
    return random_logits(20 + 13 * seed, seed, 0.5 + seed % 7)


def history_of(seed: int) -> list[int]:
    # A small alphabet, so that n-grams come again.
    return np.random.default_rng(seed).integers(0, 6, size=PROMPT + seed).tolist()


def apply(processor: Any, scores: Any, history: list[int] = [0], dtype: Any = None) -> Any:  # noqa: B006
    """[V] from a processor of transformers; float64 where its own rounding would blur what is compared."""
    rows = torch.from_numpy(scores.copy())[None]
    return processor(torch.tensor([history]), rows.to(dtype or rows.dtype))[0].numpy()


def kept(x: Any) -> list[int]:
    return np.flatnonzero(np.isfinite(x)).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_repetition_penalty(seed: int) -> None:
    logits, history, penalty = logits_of(seed), history_of(seed), 0.7 + 0.05 * seed
    want = apply(hf.RepetitionPenaltyLogitsProcessor(penalty), logits, history)
    np.testing.assert_array_equal(sampling.penalise_repetition(logits, history, penalty), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_repeat_ngram(seed: int) -> None:
    logits, history = logits_of(seed), history_of(seed)
    for n in (1, 2, 3, 4):
        want = apply(hf.NoRepeatNGramLogitsProcessor(n), logits, history)
        np.testing.assert_array_equal(sampling.ban_repeated_ngrams(logits, history, n), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_min_new_tokens(seed: int) -> None:
    logits, history, stops = logits_of(seed), history_of(seed), (3, 7)
    params = SamplingParams(min_new_tokens=20, stop_token_ids=stops)
    processor = hf.MinNewTokensLengthLogitsProcessor(PROMPT, 20, list(stops), device="cpu")
    want = apply(processor, logits, history)
    got = sampling.apply_history_rules(logits, params, history, len(history) - PROMPT)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("seed", SEEDS)
def test_temperature(seed: int) -> None:
    logits, temperature = logits_of(seed), 0.1 + 0.05 * seed
    want = apply(hf.TemperatureLogitsWarper(temperature), logits)
    got = sampling.divide_by_temperature(logits, temperature)
    # The same up to a constant; each is rounded twice, relative to the largest of its terms.
    np.testing.assert_allclose(got, want - want.max(), atol=4 * 2.0**-24 * np.abs(want).max() * 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_top_k(seed: int) -> None:
    z = sampling.divide_by_temperature(logits_of(seed), 1.0)
    tied = np.round(z)
    for k in (1, 2, 7, 10**6):
        for x in (z, tied):
            np.testing.assert_array_equal(sampling.keep_top_k(x, k), apply(hf.TopKLogitsWarper(k), x))


@pytest.mark.parametrize("seed", SEEDS)
def test_top_p(seed: int) -> None:
    z = sampling.divide_by_temperature(logits_of(seed), 1.0)
    for p in (0.01, 0.5, 0.9, 0.999):
        assert kept(sampling.keep_top_p(z, p)) == kept(apply(hf.TopPLogitsWarper(p), z, dtype=torch.float64))


@pytest.mark.parametrize("seed", SEEDS)
def test_min_p(seed: int) -> None:
    z = sampling.divide_by_temperature(logits_of(seed), 1.0)
    for p in (1e-6, 0.02, 0.3, 0.9):
        assert kept(sampling.keep_min_p(z, p)) == kept(apply(hf.MinPLogitsWarper(p), z, dtype=torch.float64))


def generation_processors(params: SamplingParams, logits: Any) -> Any:
    """The list that transformers' generate() builds itself for the same options."""
    config = transformers.GPT2Config(vocab_size=len(logits), n_positions=8, n_embd=4, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    options = transformers.GenerationConfig(
        do_sample=True,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        no_repeat_ngram_size=params.no_repeat_ngram_size,
        min_new_tokens=params.min_new_tokens,
        eos_token_id=list(params.stop_token_ids),
    )
    model._prepare_special_tokens(options, device="cpu")
    return model._get_logits_processor(options, input_ids_seq_length=PROMPT, device="cpu")


@pytest.mark.parametrize("seed", range(8))
def test_all_rules_in_the_order_of_generate(seed: int) -> None:
    logits, history = logits_of(seed + 20), history_of(seed)
    params = SamplingParams(
        temperature=0.8,
        top_k=20,
        top_p=0.9,
        min_p=0.02,
        repetition_penalty=1.4,
        no_repeat_ngram_size=2,
        min_new_tokens=5,
        stop_token_ids=(9,),
    )
    processors = generation_processors(params, logits)
    assert [type(p).__name__ for p in processors] == [
        "RepetitionPenaltyLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]
    want = torch.softmax(torch.from_numpy(apply(processors, logits, history)).double(), 0).numpy()
    got = sampling.probabilities(logits, params, history=history, generated=len(history) - PROMPT)
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert (got > 0).tolist() == (want > 0).tolist()
