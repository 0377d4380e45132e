"""The engine with int8 and int4 weights computes what docs/formats/quantised.md says, on every machine.

The oracle is tests/quant/reference.py. Its integer sums are exact; its LayerNorm and softmax are float32 in
another order. A difference of 1e-7 there is nothing, until it moves an activation over the border between two
integers: from then on the two differ like two roundings of the same model. So most short prompts must agree
to float32 precision, and all of them much more closely than rounding itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import gpt2
from checkpoints import random_gpt2
from gpt2.config import GPT2Config
from gpt2.errors import WeightsError
from gpt2.quant import Scheme, quantise
from gpt2.weights import open_weights, save_safetensors
from gpt2.weights.scheme import KEY
from machine import isas
from quant import reference
from quant.test_model import SMALL, float_model

SCHEMES = [
    Scheme(method="int8"),
    Scheme(method="int8", symmetric=False),
    Scheme(method="int4"),
    Scheme(method="int4", group=64, symmetric=False),
    Scheme(method="int4", group=128),
]
PROMPTS = [[*range(start, start + 4)] for start in range(0, 6000, 400)]


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scheme]:
    """The bundled model in one scheme, as a directory."""
    from gpt2.cards.quantised import write_quantised

    folder = tmp_path_factory.mktemp("model")
    write_quantised(None, folder, request.param)
    return folder, request.param


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_the_engine_computes_what_the_page_says(pair: tuple[Path, Scheme], cache: str) -> None:
    folder, _ = pair
    config = GPT2Config.from_json(folder)
    weights = open_weights(folder, config)
    matrices = reference.unpacked(weights, config)
    engine = gpt2.load(folder, cache=cache)  # type: ignore[arg-type]
    floats = gpt2.load(weights="float32")
    agree, ours, rounding = 0, 0.0, 0.0
    for ids in PROMPTS:
        expected, got = reference.logits(weights, matrices, config, ids, cache), engine.logits(ids)
        agree += bool(np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max())
        ours += float(np.square(got - expected).mean())
        rounding += float(np.square(got - floats.logits(ids)).mean())
    assert agree >= 0.7 * len(PROMPTS)
    assert ours < 0.1 * rounding


def test_every_instruction_set_gives_the_same_bits(pair: tuple[Path, Scheme]) -> None:
    folder, _ = pair
    ids = [6143, *range(40, 60)]
    first = gpt2.load(folder, isa="generic").logits(ids)
    for isa in isas()[1:]:
        assert np.array_equal(gpt2.load(folder, isa=isa).logits(ids), first), isa


@pytest.mark.parametrize("scheme", SCHEMES[:4], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_odd_sizes(scheme: Scheme, tied: bool, tmp_path: Path, isa: str) -> None:
    """Widths that are no multiple of any tile, and a head of its own."""
    from gpt2.cards.quantised import write_quantised

    model = random_gpt2(
        n_embd=36, n_head=3, n_layer=2, n_positions=40, vocab_size=77, n_inner=50, tie_word_embeddings=tied
    )
    model.save_pretrained(tmp_path / "float")
    (tmp_path / "made").mkdir()
    write_quantised(tmp_path / "float", tmp_path / "made", scheme)
    config = GPT2Config.from_json(tmp_path / "made")
    engine = gpt2.load(tmp_path / "made", isa=isa, cache="float32")
    weights = open_weights(tmp_path / "made", config)
    matrices, agree = reference.unpacked(weights, config), 0
    for first in range(30):
        ids = [first, first + 3]
        expected = reference.logits(weights, matrices, config, ids)
        agree += bool(np.abs(engine.logits(ids) - expected).max() <= 1e-4 * np.abs(expected).max())
    assert agree >= 24


def test_generation_is_the_same_everywhere(pair: tuple[Path, Scheme]) -> None:
    folder, scheme = pair
    texts = {
        gpt2.load(folder, isa=isa, threads=threads)
        .generate("Once upon a time", seed=3, max_new_tokens=10)
        .text  # type: ignore[union-attr]
        for isa in isas()
        for threads in (1, 2)
    }
    if scheme == Scheme(method="int8"):
        texts.add(gpt2.load(weights="int8").generate("Once upon a time", seed=3, max_new_tokens=10).text)  # type: ignore[union-attr]
    assert len(texts) == 1


def spoil(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Any bits in the matrices, their padding too; a few wild numbers anywhere."""
    for name, array in arrays.items():
        if name.endswith((".q", ".q4", ".zero")):
            array.reshape(-1).view(np.uint8)[:] = rng.integers(0, 256, array.nbytes)
    name = rng.choice([name for name, array in arrays.items() if array.dtype == np.float32])
    array = arrays[name].reshape(-1)
    array[rng.integers(array.size)] = rng.choice([0.0, -1.0, 3e38, 1e-45, 1e30, 1.0])


@pytest.mark.parametrize("seed", range(16))
def test_any_bits_are_a_model_or_an_error(seed: int, tmp_path: Path) -> None:
    """Nothing in a file that passes the checks can crash, or tell two instruction sets apart."""
    rng = np.random.default_rng(seed)
    scheme = SCHEMES[seed % len(SCHEMES)]
    config = dataclasses.replace(SMALL, tie_word_embeddings=bool(seed % 2), extra={KEY: scheme.to_dict()})
    arrays = {t.name: t.array.copy() for t in quantise(float_model(config), config, scheme)}
    spoil(arrays, rng)
    save_safetensors(tmp_path / "model.safetensors", arrays, align=64 if seed % 3 else 8)
    config.save(tmp_path)
    results, cache = [], ("float32", "int8")[seed // 8]
    for isa in isas():
        try:
            results.append(gpt2.load(tmp_path, isa=isa, cache=cache).logits([1, 2, 3]))  # type: ignore[arg-type]
        except WeightsError:
            results.append(np.empty(0))
    assert all(np.array_equal(result, results[0], equal_nan=True) for result in results)
