"""Known answers of the released 124M weights, for whoever has them: a directory in GPT2_REAL_WEIGHTS."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import gpt2

SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"


@pytest.fixture(scope="module")
def released() -> gpt2.LanguageModel:
    folder = os.environ.get("GPT2_REAL_WEIGHTS")
    if not folder:
        pytest.skip("needs the released 124M weights: set GPT2_REAL_WEIGHTS to their directory")
    digest = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()
    assert digest == SHA256, "GPT2_REAL_WEIGHTS holds another model.safetensors"
    return gpt2.load(folder)


def test_last_logits_of_five_prompts(released: gpt2.LanguageModel, shared_data: Path) -> None:
    for path in sorted((shared_data / "reference" / "gpt2-124m").glob("ex*.json")):
        example = json.loads(path.read_text())
        expected = np.array(example["logits"])
        got = released.logits(example["tokenIds"])[-1]
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max(), path.name


def test_greedy_continuations(released: gpt2.LanguageModel) -> None:
    tokens = [
        373,
        1043,
        287,
        257,
        2214,
        1474,
        262,
        16246,
        286,
        2688,
        290,
        2688,
        27262,
        13,
        198,
        198,
        464,
        3290,
    ]
    got = released.generate([464, 3290], temperature=0, max_new_tokens=len(tokens))
    assert list(got.tokens) == tokens  # type: ignore[union-attr]
    text = released.generate("Today, I", temperature=0, max_new_tokens=14)
    assert text.text == "'m going to be doing a lot of research on this. I"  # type: ignore[union-attr]
