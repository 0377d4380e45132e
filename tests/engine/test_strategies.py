"""Strategies in the engine: the reference's tokens in one large mixed batch, and the same bits alone, in any
mix, with any number of threads, streamed or whole."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from checkpoints import random_gpt2, saved
from decoding.test_strategies_golden import RECORDS
from gpt2.errors import InvalidRequest, PromptTooLong

V, WINDOW, EOS = 151, 140, 0

KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"n": 2},
    {"num_beams": 3, "n": 2},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "early_stopping": True},
    {"num_beams": 3, "n": 3, "do_sample": True, "top_k": 20, "temperature": 1.4},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "n": 2},
    {"num_beams": 3, "force_words_ids": [[5, 9], [[7], [3, 4]]]},
    {"penalty_alpha": 0.5, "top_k": 4},
    {"dola_layers": "high", "temperature": 0.9, "n": 2},
    {"guidance_scale": 1.7, "negative_prompt_ids": [8, 9, 10], "n": 2},
    {"best_of": 3, "n": 2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"n_embd": 44, "n_head": 4, "n_layer": 4, "n_positions": WINDOW, "vocab_size": V}
    return saved(random_gpt2(**shape, initializer_range=0.3), tmp_path_factory.mktemp("strategies"))


@pytest.fixture(scope="module")
def models(folder: Path) -> list[gpt2.LanguageModel]:
    return [gpt2.load(folder, threads=1), gpt2.load(folder, threads=2)]


@pytest.fixture(scope="module")
def demo() -> gpt2.LanguageModel:
    return gpt2.load()


def together(lm: gpt2.LanguageModel, requests: list[tuple[list[int], dict[str, Any]]]) -> list[Any]:
    """All at once, each with its own options."""

    async def run() -> list[Any]:
        return await asyncio.gather(*(lm.agenerate(ids, **options) for ids, options in requests))

    return [one if isinstance(one, list) else [one] for one in asyncio.run(run())]


def test_a_mixed_batch_gives_the_tokens_of_transformers(demo: gpt2.LanguageModel) -> None:
    results = together(demo, [(record["prompt"], record["options"]) for record in RECORDS])
    for record, got in zip(RECORDS, results, strict=True):
        assert [list(one.tokens) for one in got] == record["tokens"], record
        if "scores" in record:
            np.testing.assert_allclose([one.score for one in got], record["scores"], rtol=0, atol=1e-4)


@st.composite
def mixes(draw: st.DrawFn) -> list[tuple[list[int], dict[str, Any]]]:
    made = []
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=6)):
        length = draw(st.sampled_from([1, 5, 63, 64, 65, 120]))
        ids = np.random.default_rng(draw(st.integers(0, 3))).integers(1, V, length).tolist()
        more = {"max_new_tokens": draw(st.sampled_from([1, 6, 24])), "seed": draw(st.integers(0, 5))}
        more |= draw(st.sampled_from([{}, {"logprobs": 1}]))
        more |= draw(st.sampled_from([{}, {"ignore_eos": True}, {"stop_token_ids": [20, 21, 22, 23]}]))
        if "force_words_ids" in kind or not more.get("stop_token_ids"):
            more.pop("stop_token_ids", None)
        made.append((ids, {**kind, **more}))
    return made


@settings(max_examples=15, deadline=None)
@given(mix=mixes())
def test_alone_is_in_any_mix_with_any_threads(mix: Any, models: list[gpt2.LanguageModel]) -> None:
    alone = [together(models[0], [request])[0] for request in mix]
    assert together(models[1], mix) == alone
    assert together(models[0], mix[::-1]) == alone[::-1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))
def test_streamed_is_whole(kind: dict[str, Any], demo: gpt2.LanguageModel) -> None:
    options = {**kind, "seed": 3, "max_new_tokens": 20, "stop": (".", "of the"), "logprobs": 1}
    prompt = "The old gentleman"
    whole = demo.generate(prompt, **options)
    whole = whole if isinstance(whole, list) else [whole]
    texts, tokens, ends = [""] * len(whole), [()] * len(whole), {}
    for chunk in demo.stream(prompt, **options):
        texts[chunk.index] += chunk.text
        tokens[chunk.index] += chunk.tokens
        if chunk.completion is not None:
            ends[chunk.index] = chunk.completion
    assert [ends[k] for k in range(len(whole))] == whole
    assert texts == [one.text for one in whole]
    assert tokens == [one.tokens for one in whole]
    for one in whole:
        assert not any(stop in one.text for stop in options["stop"])
        assert (one.finish_reason == "stop") == (one.stop is not None)
        has_score = "num_beams" in kind or "best_of" in kind
        assert (one.score is not None) == has_score
        if kind.keys() <= {"num_beams", "n", "force_words_ids"} and has_score:
            assert one.score == pytest.approx(sum(one.logprobs) / len(one.tokens), abs=1e-4)


@pytest.mark.parametrize("overflow", ["stop", "slide"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))
def test_the_window(kind: dict[str, Any], overflow: str, models: list[gpt2.LanguageModel]) -> None:
    ids = np.random.default_rng(1).integers(1, V, WINDOW - 5).tolist()
    options = {**kind, "ignore_eos": True, "max_new_tokens": 12, "overflow": overflow, "seed": 1}
    (got,) = together(models[0], [(ids, options)])
    for one in got:
        if overflow == "slide":
            assert (one.finish_reason, len(one.tokens), one.slides) == ("length", 12, 1)
        else:
            # What is chosen after the last place of the window needs no place, unless it is computed first.
            assert (one.finish_reason, len(one.tokens)) == ("context", 5 if "penalty_alpha" in kind else 6)


def test_a_negative_prompt_may_be_a_text(demo: gpt2.LanguageModel) -> None:
    options: dict[str, Any] = {"guidance_scale": 2.0, "do_sample": False, "max_new_tokens": 8}
    ids = demo.tokenizer.encode("A sad story")
    text = demo.generate("Once", negative_prompt="A sad story", **options)
    assert text.tokens == demo.generate("Once", negative_prompt_ids=ids, **options).tokens
    assert text.tokens != demo.generate("Once", **options).tokens


def test_what_only_the_model_knows_is_checked(demo: gpt2.LanguageModel) -> None:
    for options in (
        {"num_beams": 2, "force_words_ids": [[99999]]},
        {"guidance_scale": 2.0, "negative_prompt_ids": [99999]},
        {"dola_layers": (5,)},
    ):
        with pytest.raises(InvalidRequest, match=f"^{list(options)[-1]}"):
            demo.generate("Once", **options)
    with pytest.raises(PromptTooLong):
        demo.generate("Once", guidance_scale=2.0, negative_prompt_ids=[5] * 513)


def test_beams_leave_no_memory_behind(models: list[gpt2.LanguageModel]) -> None:
    def few() -> Iterator[Any]:
        for kind in KINDS:
            yield from models[0].stream([3, 4, 5], **kind, seed=1, max_new_tokens=9)

    list(few())
    stream = models[0].stream([3, 4, 5], num_beams=4, max_new_tokens=100, ignore_eos=True)
    next(stream)
    stream.close()
    asyncio.run(asyncio.sleep(0.2))
    stats = models[0].stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0), dataclasses.asdict(stats)


@pytest.mark.parametrize("left", ["nothing", "a stream"])
def test_a_process_ends_well_after_async_calls(left: str) -> None:
    """The background thread is not stopped in the middle of native code, which would abort the process."""
    go_on = "asyncio.get_event_loop_policy().new_event_loop().run_until_complete(begin())"
    code = f"""
import asyncio, gpt2
lm = gpt2.load()
async def every():
    await asyncio.gather(*(lm.agenerate("Once", max_new_tokens=2, seed=k) for k in range(8)))
async def begin():
    global stream
    stream = lm.astream("Once", num_beams=2, max_new_tokens=300, ignore_eos=True)
    await anext(stream)
{go_on if left == "a stream" else "asyncio.run(every())"}
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
