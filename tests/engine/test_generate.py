"""Generation: transformers' greedy tokens, one text for one seed on every road, stops, windows and cuts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import errors


@pytest.fixture(scope="module")
def reference() -> Any:
    return random_gpt2(n_embd=64, n_head=4, n_layer=3, n_positions=96, vocab_size=211, initializer_range=0.3)


@pytest.fixture(scope="module")
def numbers(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> gpt2.LanguageModel:
    """A model without a tokenizer: prompts are ids."""
    return gpt2.load(saved(reference, tmp_path_factory.mktemp("numbers")))


@pytest.fixture(scope="module")
def words(tiny_checkpoint: Path) -> gpt2.LanguageModel:
    """A model with a vocabulary: V=269, T=64."""
    return gpt2.load(tiny_checkpoint)


def transformers_tokens(reference: Any, ids: list[int], **options: Any) -> list[int]:
    import torch

    prompt = torch.tensor([ids])
    with torch.no_grad():
        out = reference.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, **options
        )
    return [int(i) for i in out[0, len(ids) :]]


def test_greedy_equals_transformers_on_a_hundred_prompts(reference: Any, numbers: gpt2.LanguageModel) -> None:
    rng = np.random.default_rng(11)
    prompts = [rng.integers(1, 211, rng.integers(1, 60)).tolist() for _ in range(100)]
    ours = numbers.generate(prompts, temperature=0, max_new_tokens=8)
    for at, (prompt, got) in enumerate(zip(prompts, ours, strict=True)):
        assert list(got.tokens) == transformers_tokens(reference, prompt, max_new_tokens=8), f"prompt {at}"


@pytest.mark.parametrize(
    "options", [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 15}], ids=str
)
def test_greedy_with_rules_equals_transformers(
    reference: Any, numbers: gpt2.LanguageModel, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(12)
    for _ in range(6):
        prompt = rng.integers(1, 211, 10).tolist()
        got = numbers.generate(prompt, temperature=0, max_new_tokens=30, **options)
        assert list(got.tokens) == transformers_tokens(reference, prompt, max_new_tokens=30, **options)  # type: ignore[union-attr]


def test_one_seed_is_one_text_on_every_road(tiny_checkpoint: Path) -> None:
    prompts = ["the sea", "", "and the", "x" * 30, "\u00e9\u4e2d\U0001f600"]
    options = {"seed": 7, "temperature": 0.9, "top_k": 50, "max_new_tokens": 20, "logprobs": 1, "n": 2}
    one = gpt2.load(tiny_checkpoint, threads=1)
    alone = [one.generate(prompt, **options) for prompt in prompts]
    for threads in (1, 2, 3):
        lm = gpt2.load(tiny_checkpoint, threads=threads)
        together = lm.generate(prompts, **options)
        assert together == [completion for pair in alone for completion in pair]  # type: ignore[union-attr]
        for prompt, pair in zip(prompts, alone, strict=True):
            chunks = list(lm.stream(prompt, **options))
            for completion in pair:  # type: ignore[union-attr]
                mine = [chunk for chunk in chunks if chunk.index == completion.index]
                assert "".join(chunk.text for chunk in mine) == completion.text
                assert sum((chunk.tokens for chunk in mine), ()) == completion.tokens
                assert [chunk.finish_reason for chunk in mine[:-1]] == [None] * (len(mine) - 1)
                assert mine[-1].completion == completion


def test_without_a_seed_the_chosen_one_is_reported_and_repeats(words: gpt2.LanguageModel) -> None:
    first = words.generate("the", max_new_tokens=20)
    other = words.generate("the", max_new_tokens=20)
    assert first.seed != other.seed  # type: ignore[union-attr]
    assert words.generate("the", max_new_tokens=20, seed=first.seed) == first  # type: ignore[union-attr]


def test_the_alternatives_differ(words: gpt2.LanguageModel) -> None:
    texts = {c.text for c in words.generate("the", n=5, seed=1, max_new_tokens=20)}  # type: ignore[union-attr]
    assert len(texts) == 5


def test_text_is_the_tokens_decoded(words: gpt2.LanguageModel) -> None:
    for seed in range(20):
        got = words.generate("a", seed=seed, max_new_tokens=30, ignore_eos=True)
        assert got.text == words.tokenizer.decode(list(got.tokens))  # type: ignore[union-attr]


def test_stop_strings_end_the_text_before_them(words: gpt2.LanguageModel) -> None:
    whole = words.generate("the", seed=3, max_new_tokens=40, ignore_eos=True)
    text = whole.text  # type: ignore[union-attr]
    for at in range(1, len(text) - 3, 5):
        stop = text[at : at + 3]
        if "\ufffd" in stop:
            continue
        got = words.generate("the", seed=3, max_new_tokens=40, ignore_eos=True, stop=stop)
        assert isinstance(got, gpt2.Completion)
        assert got.text == text[: text.find(stop)]
        assert (got.finish_reason, got.stop) == ("stop", stop)
        pieces = [c.text for c in words.stream("the", seed=3, max_new_tokens=40, ignore_eos=True, stop=stop)]
        assert "".join(pieces) == got.text


def test_stop_token_ids_and_the_end_of_text(words: gpt2.LanguageModel) -> None:
    free = words.generate("the", seed=5, max_new_tokens=30, ignore_eos=True)
    assert isinstance(free, gpt2.Completion)
    third = free.tokens[2]
    got = words.generate("the", seed=5, max_new_tokens=30, ignore_eos=True, stop_token_ids=[third])
    assert isinstance(got, gpt2.Completion)
    end = free.tokens.index(third)
    assert got.tokens == free.tokens[: end + 1]
    assert (got.finish_reason, got.stop) == ("stop", third)
    assert got.text == words.tokenizer.decode(list(free.tokens[:end]))


def test_min_new_tokens_keeps_the_end_away(words: gpt2.LanguageModel) -> None:
    eos = words.tokenizer.eos_id
    for seed in range(30):
        got = words.generate("the", seed=seed, temperature=2.0, min_new_tokens=30, max_new_tokens=30)
        assert eos not in got.tokens  # type: ignore[union-attr]
        assert len(got.tokens) == 30  # type: ignore[union-attr]


def test_no_new_tokens(words: gpt2.LanguageModel) -> None:
    got = words.generate("the", max_new_tokens=0, seed=1)
    assert got == gpt2.Completion(text="", tokens=(), finish_reason="length", prompt_tokens=1, seed=1)


def test_the_window_ends_a_generation_and_says_so(numbers: gpt2.LanguageModel) -> None:
    got = numbers.generate([1, 2, 3], max_new_tokens=500, seed=1, ignore_eos=True)
    assert isinstance(got, gpt2.Completion)
    assert got.finish_reason == "context"
    assert 3 + len(got.tokens) == 96 + 1  # the last token is chosen after all 96 positions


def test_sliding_encodes_the_second_half_of_the_window_anew(numbers: gpt2.LanguageModel) -> None:
    got = numbers.generate([1, 2, 3], max_new_tokens=250, temperature=0, overflow="slide", ignore_eos=True)
    assert isinstance(got, gpt2.Completion)
    everything = [1, 2, 3]
    begin, slides = 0, 0
    for _ in range(250):
        if len(everything) - begin > 96:
            begin, slides = len(everything) - 48, slides + 1
        everything.append(
            int(numbers.logits(everything[begin:], first=len(everything) - begin - 1)[0].argmax())
        )
    assert list(got.tokens) == everything[3:]
    assert got.slides == slides > 0
    assert got.finish_reason == "length"


@pytest.mark.parametrize("policy", ["left", "right", "middle"])
def test_a_cut_is_made_where_it_was_asked_for_and_reported(numbers: gpt2.LanguageModel, policy: str) -> None:
    ids = [i % 211 for i in range(1, 201)]
    got = numbers.generate(ids, truncate=policy, max_new_tokens=10, temperature=0)
    assert isinstance(got, gpt2.Completion)
    cut = got.truncated
    assert cut is not None
    assert (cut.policy, cut.original, got.prompt_tokens) == (policy, 200, 86)
    kept = ids[: cut.start] + ids[cut.stop :]
    assert {"left": kept == ids[-86:], "right": kept == ids[:86], "middle": kept == ids[:43] + ids[-43:]}[
        policy
    ]
    plain = numbers.generate(kept, max_new_tokens=10, temperature=0)
    assert dataclasses.replace(got, truncated=None, seed=0) == dataclasses.replace(plain, seed=0)  # type: ignore[type-var]


def test_a_prompt_that_does_not_fit_is_an_error_that_names_the_policies(numbers: gpt2.LanguageModel) -> None:
    with pytest.raises(errors.PromptTooLong, match="97 tokens") as caught:
        numbers.generate([1] * 97)
    assert "left" in str(caught.value)
    assert numbers.generate([1] * 96, max_new_tokens=5, seed=1).finish_reason == "context"  # type: ignore[union-attr]


def test_the_end_marker_in_a_prompt_is_text_unless_allowed(words: gpt2.LanguageModel) -> None:
    marker = "<|endoftext|>"
    plain = words.generate(marker, max_new_tokens=1, seed=1)
    special = words.generate(marker, max_new_tokens=1, seed=1, allow_special=True)
    assert plain.prompt_tokens > 1  # type: ignore[union-attr]
    assert special.prompt_tokens == 1  # type: ignore[union-attr]
    assert special.tokens == words.generate("", max_new_tokens=1, seed=1).tokens  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("prompt", "options", "error", "says"),
    [
        ("x", {"temperature": float("nan")}, errors.InvalidRequest, "temperature"),
        ("x", {"temperature": float("inf")}, errors.InvalidRequest, "temperature"),
        ("x", {"temperature": -1}, errors.InvalidRequest, "temperature"),
        ("x", {"top_p": 0}, errors.InvalidRequest, "top_p"),
        ("x", {"tempreature": 1}, errors.UnknownOption, "did you mean 'temperature'"),
        ("x", {"stop_token_ids": [269]}, errors.InvalidRequest, "269"),
        ([269], {}, errors.InvalidRequest, "position 0"),
        ([0, -1], {}, errors.InvalidRequest, "position 1"),
        ([0, 2**31], {}, errors.InvalidRequest, "position 1"),
        ([2**63], {}, errors.InvalidRequest, "position 0"),
        ([2**70], {}, errors.InvalidRequest, "token id at position 0"),
        ([1.5], {}, errors.InvalidRequest, "token id at position 0"),
        (b"bytes", {}, errors.InvalidRequest, "prompt"),
        (3, {}, errors.InvalidRequest, "prompt"),
        (None, {}, errors.InvalidRequest, "prompt"),
        ([None], {}, errors.InvalidRequest, "token id at position 0"),
    ],
    ids=str,
)
def test_bad_requests(
    words: gpt2.LanguageModel, prompt: Any, options: dict[str, Any], error: type[gpt2.Error], says: str
) -> None:
    with pytest.raises(error, match=says):
        words.generate(prompt, **options)
    with pytest.raises(error, match=says):
        words.stream(prompt, **options)
    assert words.generate("x", max_new_tokens=1, seed=1).tokens  # type: ignore[union-attr]  # still usable


@pytest.mark.parametrize(
    "extra", [{"top_k": 10**6}, {"top_p": 1.0}, {"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}]
)
def test_edges_of_the_options(words: gpt2.LanguageModel, extra: dict[str, Any]) -> None:
    assert len(words.generate("x", max_new_tokens=5, seed=1, ignore_eos=True, **extra).tokens) == 5  # type: ignore[union-attr]
