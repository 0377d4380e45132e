"""The bundled model: small, labelled for what it is, the same in transformers, and it writes English."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gpt2
from machine import ROOT, exact_isa

FOLDER = Path(gpt2.__file__).parent / "assets" / "demo"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "demo.json").read_text())["records"]


@pytest.fixture(scope="module")
def demo() -> gpt2.LanguageModel:
    return gpt2.load(isa=exact_isa())


def test_it_is_small_and_whole() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"} <= sizes.keys()
    assert sum(sizes.values()) <= 12_000_000
    assert "public-domain" in (FOLDER / "README.md").read_text()


def test_its_shape(demo: gpt2.LanguageModel) -> None:
    assert demo.config.n_positions >= 512
    assert 4000 <= demo.config.vocab_size <= 8200
    assert demo.tokenizer.vocab_size == demo.config.vocab_size
    assert demo.tokenizer.eos_id == demo.config.vocab_size - 1
    assert demo.weights == "bfloat16"


@pytest.mark.parametrize("record", GOLDEN, ids=[record["prompt"] for record in GOLDEN])
def test_it_is_the_model_that_transformers_loads(demo: gpt2.LanguageModel, record: dict) -> None:
    ids = demo.tokenizer.encode(record["prompt"])
    assert ids == record["ids"]
    logits = demo.logits(ids)[-1]
    scale = float(np.abs(logits).max())
    assert logits[record["top_ids"]] == pytest.approx(record["top_logits"], abs=1e-4 * scale)
    got = demo.generate(record["prompt"], temperature=0, max_new_tokens=24)
    assert list(got.tokens) == record["greedy"]  # type: ignore[union-attr]


def test_it_prefers_english_to_the_same_words_shuffled(demo: gpt2.LanguageModel) -> None:
    sentences = [
        "She looked at him for a moment, and then she went out of the room without a word.",
        "The old man had been sitting by the fire since the early morning.",
        "I do not think that he will ever come back to this house again.",
    ]
    rng = np.random.default_rng(0)
    for sentence in sentences:
        shuffled = " ".join(rng.permutation(sentence.split()))
        assert demo.score(sentence).total > demo.score(shuffled).total + 15
        assert demo.score(sentence).bits_per_byte < 2.0
