"""A quantised directory: all that it needs is in it, its card is true, and it is the model that it says."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import gpt2
from gpt2 import cards
from gpt2.cards import agreement, quantise_directory, read_card
from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest, TokenizerError, WeightsError
from gpt2.weights import Scheme, fingerprint, open_weights
from gpt2.weights.hub import bundled

TEXT = "It was a dark and stormy night; the rain fell in torrents. " * 20


@pytest.fixture(scope="module", params=["int8", "int4"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, quantised."""
    target = tmp_path_factory.mktemp("quantised") / "model"
    steps: list[str] = []
    written = quantise_directory(
        None, target, Scheme(method=request.param), text=TEXT, samples=2, progress=steps.append
    )
    assert written.card == read_card(target)
    assert len(steps) >= 4
    return target


def test_the_card_is_true(made: Path) -> None:
    card = read_card(made)
    assert card is not None
    assert card["source"] == {
        "name": "demo",
        "sha256": fingerprint(bundled()).whole,
        "files": dict(fingerprint(bundled()).files),
    }
    assert card["files"] == dict(fingerprint(made).files)
    source, model = gpt2.load(), gpt2.load(made)
    assert card["quantization"] == Scheme(method=model.weights).to_dict()  # type: ignore[arg-type]
    text = card["quality"]["text"]
    stride = text["stride"]
    before, after = (lm.score(TEXT, stride=stride).bits_per_byte for lm in (source, model))
    assert text["bits_per_byte"] == {"source": before, "model": after}
    assert text["increase_percent"] == pytest.approx(100 * (after / before - 1))
    near = card["quality"]["on_samples_of_the_source"]
    found = agreement(source, model, cards.sample_ids(source, samples=2))
    assert near["mean_kl_bits"] == found.mean_kl_bits
    assert 0 < near["mean_kl_bits"] < (0.01 if model.weights == "int8" else 0.2)
    assert card["weight_bytes"]["model"] == sum(t.nbytes for t in open_weights(made).values())
    assert (
        card["weight_bytes"]["model"]
        < (0.55 if model.weights == "int8" else 0.42) * card["weight_bytes"]["source"]
    )


def test_loaded_from_the_directory_is_narrowed_at_load(made: Path) -> None:
    model = gpt2.load(made)
    narrowed = gpt2.load(weights=model.weights)  # type: ignore[arg-type]
    ids = [5, 6, 7, 8]
    assert np.array_equal(model.logits(ids), narrowed.logits(ids))
    assert model.generate("Once", seed=1, max_new_tokens=8) == narrowed.generate(
        "Once", seed=1, max_new_tokens=8
    )


def test_the_same_work_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    card = read_card(made)
    assert card is not None
    again = tmp_path / "again"
    quantise_directory(None, again, Scheme.from_dict(card["quantization"]), text=TEXT, samples=2)
    assert fingerprint(again) == fingerprint(made)
    assert (again / "card.json").read_bytes() == (made / "card.json").read_bytes()


def test_what_travels(made: Path) -> None:
    names = {p.name for p in made.iterdir()}
    assert names == {
        "card.json", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
        "tokenizer.json", "vocab.json",
    }  # fmt: skip
    config = json.loads((made / "config.json").read_text())
    assert "dtype" not in config
    assert json.loads(open_weights(made).metadata["quantization"]) == config["quantization"]


def test_twice_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="quantised already"):
        quantise_directory(made, tmp_path / "x", Scheme(method="int4"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((GPT2Config, "save"), (shutil, "copyfile"), (os, "fsync"), (os, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(WeightsError, match="No space left"):
                quantise_directory(None, tmp_path / "x", Scheme(method="int8"), samples=1)
        assert not list(tmp_path.iterdir()), name


def test_failures_leave_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(bundled(), source)
    for name in ("tokenizer.json", "vocab.json"):
        (source / name).unlink()
    with pytest.raises(TokenizerError):
        quantise_directory(source, tmp_path / "x", Scheme(method="int8"), text="a text")
    with gpt2.open_weights(source) as weights:
        arrays = {t.name: t.to_float32() for t in weights.values()}
    arrays["h.0.mlp.c_fc.weight"][0, 0] = np.nan
    from gpt2.weights import save_safetensors

    save_safetensors(source / "model.safetensors", arrays)
    with pytest.raises(WeightsError, match="not finite"):
        quantise_directory(source, tmp_path / "x", Scheme(method="int8"))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
