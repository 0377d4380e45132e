"""The rules of the sampler as a caller meets them: words, lengths and time, on the bundled model."""

from __future__ import annotations

from typing import Any

import pytest

import gpt2
from gpt2.decoding import SamplingParams
from gpt2.engine.native_params import bad_words_ids, breakers, native_params
from gpt2.errors import InvalidRequest


@pytest.fixture(scope="module")
def lm() -> Any:
    return gpt2.load(threads=1)


def test_max_length_counts_the_prompt_and_leaves_room(lm: Any) -> None:
    ids = lm.tokenizer.encode("Once upon a time")
    for prompt in ("Once upon a time", "Once upon a time there was"):
        tokens = len(lm.tokenizer.encode(prompt))
        result = lm.generate(prompt, max_length=20, ignore_eos=True, seed=1)
        assert len(result.tokens) == 20 - tokens
        assert result.finish_reason == "length"
    with pytest.raises(InvalidRequest, match="max_length leaves no room"):
        lm.generate("Once upon a time", max_length=len(ids))


def test_forced_eos_ends_the_text_where_it_is_full(lm: Any) -> None:
    result = lm.generate("Once", max_new_tokens=6, seed=1, forced_eos_token_id=lm.tokenizer.eos_id)
    assert len(result.tokens) == 6
    assert result.finish_reason == "eos"


def test_max_time_ends_a_text_and_says_so(lm: Any) -> None:
    result = lm.generate("Once", max_new_tokens=500, max_time=1e-6, ignore_eos=True)
    assert result.finish_reason == "time"
    assert len(result.tokens) == 1
    assert lm.generate("Once", max_new_tokens=3, max_time=600, seed=1).finish_reason != "time"


def test_bad_words_do_not_come(lm: Any) -> None:
    options = {"n": 8, "max_new_tokens": 60, "seed": 3, "temperature": 0.7}
    free = lm.generate("One day, the", **options)
    words = ("little", "she", "he", "was")
    assert any(f" {word} " in one.text for one in free for word in words)
    for one in lm.generate("One day, the", bad_words=words, **options):
        assert not any(f" {word} " in one.text for word in words)


def test_words_become_ids_with_and_without_a_space(lm: Any) -> None:
    end = frozenset({lm.tokenizer.eos_id})
    params = SamplingParams(bad_words="dog", bad_words_ids=[[lm.tokenizer.eos_id], [3, 4]])
    found = bad_words_ids(params, end, lm.tokenizer)
    assert found == [(3, 4), tuple(lm.tokenizer.encode("dog")), tuple(lm.tokenizer.encode(" dog"))]
    with pytest.raises(InvalidRequest, match="bad_words"):
        native_params(params, 0, end)


def test_a_breaker_is_every_token_that_contains_it(lm: Any) -> None:
    found = breakers(("\n", "never one token of this model"), lm.tokenizer)
    assert tuple(lm.tokenizer.encode("never one token of this model")) in found
    single = {ids[0] for ids in found if len(ids) == 1}
    for id in range(lm.tokenizer.vocab_size):
        assert (id in single) == (b"\n" in lm.tokenizer.token_bytes(id))


def test_dry_and_mirostat_keep_promise_2(lm: Any) -> None:
    """Alone or in a batch, streamed or not: the same tokens, with a state that goes from token to token."""
    options = {"max_new_tokens": 40, "seed": 9, "mirostat": 2, "mirostat_tau": 3.0, "dry_multiplier": 0.8}
    prompts = ["Once upon a time", "The dog", "One day, the"]
    together = lm.generate(prompts, n=2, **options)
    assert len(together) == 6
    for i, prompt in enumerate(prompts):
        alone, batch = lm.generate(prompt, n=2, **options), together[2 * i : 2 * i + 2]
        assert [one.tokens for one in alone] == [one.tokens for one in batch]
        streamed = [t for chunk in lm.stream(prompt, **options) for t in chunk.tokens]
        assert tuple(streamed) == alone[0].tokens
