"""Calls that were written for transformers: they give transformers' tokens, or say what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2 import errors
from gpt2.decoding.options.table import RULES
from gpt2.decoding.options.transformers_names import ADVICE, NO_EFFECT

PROMPT = [5, 9, 200, 31, 7]


@pytest.fixture(scope="module")
def lm(tiny_checkpoint: Path) -> gpt2.LanguageModel:
    return gpt2.load(tiny_checkpoint, threads=1)


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel.from_pretrained(tiny_checkpoint).eval()


def greedy(lm: gpt2.LanguageModel, **options: Any) -> list[int]:
    result = lm.generate(PROMPT, **options)
    assert isinstance(result, gpt2.Completion)
    return list(result.tokens)


@pytest.mark.parametrize("number", [4, 9])
def test_the_same_call_gives_the_same_tokens(number: int, lm: gpt2.LanguageModel, theirs: Any) -> None:
    """eos_token_id takes the place of the model's own, one or several; padding has nothing to do."""
    import torch

    free = greedy(lm, max_new_tokens=20, do_sample=False, ignore_eos=True)
    for eos in (free[number], [free[number + 3], free[number]]):
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": eos}
        options |= {"pad_token_id": 0, "use_cache": True}
        with torch.no_grad():
            out = theirs.generate(torch.tensor([PROMPT]), **options)
        assert greedy(lm, **options) == out[0, len(PROMPT) :].tolist()


def test_stop_strings_are_stop(lm: gpt2.LanguageModel) -> None:
    assert gpt2.SamplingParams.from_options(stop_strings="x").stop == ("x",)
    assert gpt2.SamplingParams().replace(stop_strings=["x", "y"]).stop == ("x", "y")


@pytest.mark.parametrize(
    "options",
    [
        {"pad_token_id": 50256}, {"pad_token_id": None}, {"use_cache": True}, {"use_cache": False},
        {"return_full_text": False}, {"return_dict_in_generate": True}, {"eos_token_id": None},
    ],
)  # fmt: skip
def test_what_has_no_effect_is_accepted(options: dict[str, Any]) -> None:
    assert gpt2.SamplingParams.from_options(temperature=0.5, **options) == gpt2.SamplingParams(
        temperature=0.5
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"return_full_text": True}, "prompt \\+ lm.generate"),
        ({"return_dict_in_generate": False}, "tokens"),
        ({"eos_token_id": 1, "stop_token_ids": [2]}, "eos_token_id and stop_token_ids contradict"),
        ({"eos_token_id": 1, "ignore_eos": True}, "eos_token_id and ignore_eos contradict"),
        ({"eos_token_id": "x"}, "stop_token_ids"),
        ({"stop_strings": "x", "stop": "y"}, "stop_strings and stop contradict"),
        *(({name: 1}, "try: ") for name in ADVICE if name not in RULES),
    ],
)
def test_what_means_something_else_says_what_to_write(options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=says):
        gpt2.SamplingParams.from_options(**options)


def test_the_page_names_them_all() -> None:
    from machine import ROOT

    page = (ROOT / "docs" / "how-to" / "from-transformers.md").read_text(encoding="utf-8")
    names = {*NO_EFFECT, *ADVICE, "stop_strings", "eos_token_id", "num_return_sequences", "do_sample"}
    assert not {name for name in names if f"`{name}" not in page}
