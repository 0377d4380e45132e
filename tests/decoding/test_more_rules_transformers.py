"""The rest of the rules beside the classes of transformers: what is banned, what is added, and in which
order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoding.rules import native_params, random_logits
from gpt2 import _native
from gpt2.decoding import RULE_ORDER, SamplingParams, sampling

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
hf = transformers.generation.logits_process

SEEDS = range(25)
EOS = 5


def logits_of(seed: int) -> Any:
    """[V] float32 without ties, V between 20 and 800, peaked or flat."""
    return random_logits(20 + 31 * seed, seed, 0.5 + seed % 7)


def history_of(seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 6, size=4 + seed).tolist()


def theirs(processor: Any, scores: Any, history: list[int]) -> Any:
    rows = torch.from_numpy(scores.copy())[None].double()
    return processor(torch.tensor([history]), rows)[0].numpy()


def ours(logits: Any, options: dict[str, Any], history: list[int], generated: int) -> Any:
    """Scores [V] of the readable rules, after a look at what the native ones give: the same tokens are left,
    and scores that differ by rounding."""
    params = SamplingParams(**options)
    place = sampling.Place(history=history, generated=generated, eos=(EOS,))
    readable = sampling.apply_rules(logits, params, place)
    ids = np.asarray(history, dtype=np.int32)
    sampler = _native.Sampler(len(logits))
    native = sampler.process(logits, native_params(params, (EOS,)), ids, generated)
    np.testing.assert_array_equal(np.isfinite(native), np.isfinite(readable))
    left = np.isfinite(native)
    native, readable = (x[left] - x[left].max() for x in (native, readable))
    np.testing.assert_allclose(native, readable, atol=4e-6 * max(1.0, float(np.abs(logits).max())))
    out = np.full(len(logits), -np.inf)
    out[left] = readable
    return out


def same(got: Any, want: Any) -> None:
    """Equal up to a constant and the rounding of float32; exactly the same tokens are banned."""
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    left = np.isfinite(want)
    np.testing.assert_allclose(got[left], want[left] - want[left].max(), atol=1e-4)


PROMPT = 3
FILTERS: dict[str, tuple[dict[str, Any], Any]] = {
    "typical 0.2": ({"typical_p": 0.2}, lambda: hf.TypicalLogitsWarper(0.2)),
    "typical 0.9": ({"typical_p": 0.9}, lambda: hf.TypicalLogitsWarper(0.9)),
    "epsilon": ({"epsilon_cutoff": 0.01}, lambda: hf.EpsilonLogitsWarper(0.01)),
    "epsilon too high": ({"epsilon_cutoff": 0.9}, lambda: hf.EpsilonLogitsWarper(0.9)),
    "eta": ({"eta_cutoff": 0.02}, lambda: hf.EtaLogitsWarper(0.02)),
    "top_h 0.3": ({"top_h": 0.3}, lambda: hf.TopHLogitsWarper(0.3)),
    "top_h 0.8": ({"top_h": 0.8}, lambda: hf.TopHLogitsWarper(0.8)),
    "two at least, p": (
        {"top_p": 0.01, "min_tokens_to_keep": 2},
        lambda: hf.TopPLogitsWarper(0.01, min_tokens_to_keep=2),
    ),
    "two at least, k": (
        {"top_k": 1, "min_tokens_to_keep": 2},
        lambda: hf.TopKLogitsWarper(1, min_tokens_to_keep=2),
    ),
    "three at least, min_p": (
        {"min_p": 0.99, "min_tokens_to_keep": 3},
        lambda: hf.MinPLogitsWarper(0.99, min_tokens_to_keep=3),
    ),
    "three at least, typical": (
        {"typical_p": 0.01, "min_tokens_to_keep": 3},
        lambda: hf.TypicalLogitsWarper(0.01, min_tokens_to_keep=3),
    ),
    "three at least, epsilon": (
        {"epsilon_cutoff": 0.9, "min_tokens_to_keep": 3},
        lambda: hf.EpsilonLogitsWarper(0.9, min_tokens_to_keep=3),
    ),
}
LENGTHS: dict[str, tuple[dict[str, Any], Any]] = {
    "sequence_bias": (
        {"sequence_bias": [[[3], 2.5], [[2, 4], -3.0], [[1, 2, 4], 5.0], [[0, 1], -1.0]]},
        lambda: hf.SequenceBiasLogitsProcessor(
            [[[3], 2.5], [[2, 4], -3.0], [[1, 2, 4], 5.0], [[0, 1], -1.0]]
        ),
    ),
    "bad_words": (
        {"bad_words_ids": [[7], [2, 4], [1, 2], [EOS]]},
        lambda: hf.NoBadWordsLogitsProcessor([[7], [2, 4], [1, 2], [EOS]], EOS),
    ),
    "min_length": (
        {"min_length": 12, "stop_token_ids": [EOS]},
        lambda: hf.MinLengthLogitsProcessor(12, EOS),
    ),
    "forced_bos": ({"forced_bos_token_id": 9}, lambda: hf.ForcedBOSTokenLogitsProcessor(9)),
    "forced_eos": (
        {"max_length": 20, "forced_eos_token_id": [4, 6]},
        lambda: hf.ForcedEOSTokenLogitsProcessor(20, [4, 6]),
    ),
    "decay up": (
        {"exponential_decay_length_penalty": (4, 1.1)},
        lambda: hf.ExponentialDecayLengthPenalty((4, 1.1), EOS, PROMPT),
    ),
    "decay down": (
        {"exponential_decay_length_penalty": (0, 0.7)},
        lambda: hf.ExponentialDecayLengthPenalty((0, 0.7), EOS, PROMPT),
    ),
    "suppress": ({"suppress_tokens": [1, 8]}, lambda: hf.SuppressTokensLogitsProcessor([1, 8])),
    "begin_suppress": (
        {"begin_suppress_tokens": [1, 8]},
        lambda: hf.SuppressTokensAtBeginLogitsProcessor([1, 8], PROMPT),
    ),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_filters(name: str, seed: int) -> None:
    options, make = FILTERS[name]
    logits = logits_of(seed)
    same(ours(logits, options, [], 0), theirs(make(), logits, [0]))


@pytest.mark.parametrize("name", LENGTHS)
def test_history(name: str) -> None:
    """From a text of one token to one of 28, so that every rule about lengths begins and ends."""
    options, make = LENGTHS[name]
    for seed in SEEDS:
        logits, history = logits_of(seed), history_of(seed)[: seed + 1] + ([1, 2] if seed % 3 == 0 else [])
        if name == "begin_suppress" and len(history) < PROMPT:
            continue  # shorter than its prompt: that is no text
        given = dict(options)
        if name == "bad_words":  # an end-of-text token alone is left out by the engine, as by the class
            given["bad_words_ids"] = [ids for ids in options["bad_words_ids"] if ids != [EOS]]
        generated = max(0, len(history) - PROMPT)
        same(ours(logits, given, history, generated), theirs(make(), logits, history))


def test_renormalize_changes_no_draw_and_gives_log_probabilities() -> None:
    logits = logits_of(3)
    params = SamplingParams(renormalize_logits=True, top_k=9, temperature=0.7)
    native = _native.Sampler(len(logits)).process(logits, native_params(params), np.empty(0, np.int32))
    want = hf.LogitNormalization()(
        None,
        hf.TopKLogitsWarper(9)(None, hf.TemperatureLogitsWarper(0.7)(None, torch.from_numpy(logits)[None])),
    )
    np.testing.assert_allclose(native, want[0].numpy(), atol=1e-5)


def test_candidates_of_a_beam() -> None:
    """Log-softmax, then the rules of the history, then the best: what beam search takes."""
    for seed in SEEDS:
        logits, history = logits_of(seed), history_of(seed)
        rows = torch.log_softmax(torch.from_numpy(logits)[None], -1)
        rows = hf.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([history]), rows)
        rows = hf.NoRepeatNGramLogitsProcessor(2)(torch.tensor([history]), rows)
        want_scores, want_ids = torch.topk(rows[0], 8)
        params = SamplingParams(repetition_penalty=1.3, no_repeat_ngram_size=2, temperature=0.3)
        sampler = _native.Sampler(len(logits))
        ids = np.asarray(history, np.int32)
        found = sampler.candidates(logits, native_params(params), ids, 8, normalise=True)
        assert [id for id, _ in found] == want_ids.tolist()
        np.testing.assert_allclose([score for _, score in found], want_scores.numpy(), atol=1e-5)


EVERYTHING: dict[str, Any] = {
    "sequence_bias": [[[3], 2.5]],
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[11]],
    "min_length": 40,
    "min_new_tokens": 30,
    "forced_bos_token_id": 4,
    "forced_eos_token_id": EOS,
    "max_length": 60,
    "exponential_decay_length_penalty": (3, 1.1),
    "suppress_tokens": [12],
    "begin_suppress_tokens": [13],
    "temperature": 0.8,
    "top_h": 0.9,
    "top_k": 30,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.95,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.002,
}
CLASSES = {
    "sequence_bias": "SequenceBiasLogitsProcessor",
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "no_repeat_ngram_size": "NoRepeatNGramLogitsProcessor",
    "bad_words_ids": "NoBadWordsLogitsProcessor",
    "min_length": "MinLengthLogitsProcessor",
    "min_new_tokens": "MinNewTokensLengthLogitsProcessor",
    "forced_bos_token_id": "ForcedBOSTokenLogitsProcessor",
    "forced_eos_token_id": "ForcedEOSTokenLogitsProcessor",
    "exponential_decay_length_penalty": "ExponentialDecayLengthPenalty",
    "suppress_tokens": "SuppressTokensLogitsProcessor",
    "begin_suppress_tokens": "SuppressTokensAtBeginLogitsProcessor",
    "temperature": "TemperatureLogitsWarper",
    "top_h": "TopHLogitsWarper",
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
    "min_p": "MinPLogitsWarper",
    "typical_p": "TypicalLogitsWarper",
    "epsilon_cutoff": "EpsilonLogitsWarper",
    "eta_cutoff": "EtaLogitsWarper",
}


def test_every_rule_of_generate_in_its_order() -> None:
    config = transformers.GPT2Config(vocab_size=300, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    options = transformers.GenerationConfig(do_sample=True, eos_token_id=[EOS], **EVERYTHING)
    model._prepare_special_tokens(options, device="cpu")
    processors = model._get_logits_processor(options, input_ids_seq_length=PROMPT, device="cpu")
    names = [type(p).__name__ for p in processors]
    mine = [CLASSES[rule] for rule in RULE_ORDER if rule in CLASSES]
    assert mine == names
    params = SamplingParams(stop_token_ids=(EOS,), **EVERYTHING)
    for seed in range(8):
        logits, history = random_logits(300, seed, 2.0), history_of(seed + 10)
        want = torch.softmax(torch.from_numpy(theirs(processors, logits, history)), 0).numpy()
        got = sampling.probabilities(
            logits, params, history=history, generated=len(history) - PROMPT, eos=(EOS,)
        )
        np.testing.assert_allclose(got, want, atol=2e-6)
