"""A session on disk: restored it has the bits that it would have had; one of others, or a lie, is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import errors
from gpt2.engine import session_file

KINDS = [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "float32")]


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture
def file(lm: gpt2.LanguageModel, tmp_path: Path) -> Path:
    session = lm.session(seed=3, max_new_tokens=6, template="dialogue", overflow="slide")
    session.generate("Hello")
    session.mark("door")
    session.append([1, 2, 3])
    session.save(tmp_path / "talk.json")
    return tmp_path / "talk.json"


def state(session: gpt2.Session) -> tuple[Any, ...]:
    return (
        session.tokens, session.turns, session.window, session.draws, session.seed, session.marks,
        session.params, session.template, session.text,
    )  # fmt: skip


@pytest.mark.parametrize(("weights", "cache"), KINDS, ids=lambda kind: kind)
def test_interrupted_is_uninterrupted(weights: Any, cache: Any, tmp_path: Path) -> None:
    """Another engine, with other threads and an empty cache, goes on from the file with the same bits, also
    over the edge of the window."""
    model = random_gpt2(n_embd=48, n_head=3, n_layer=2, n_positions=96, vocab_size=120, initializer_range=0.3)
    folder = saved(model, tmp_path / "model")

    def load(threads: int) -> gpt2.LanguageModel:
        return gpt2.load(folder, weights=weights, cache=cache, threads=threads)

    options: dict[str, Any] = {"temperature": 0.9, "logprobs": 3, "overflow": "slide", "ignore_eos": True}
    straight = load(2).session(seed=11, max_new_tokens=30, **options)
    broken = load(2).session(seed=11, max_new_tokens=30, **options)
    for turn in range(6):
        for session in (straight, broken):
            session.append([turn, 7, 9])
        assert broken.generate() == straight.generate()
        broken.save(tmp_path / "talk.json")
        broken = load(1).restore_session(tmp_path / "talk.json")
        assert state(broken) == state(straight)
    assert straight.window > 0


def test_all_of_it_is_restored(lm: gpt2.LanguageModel, file: Path) -> None:
    first, second = lm.restore_session(file), lm.restore_session(file)
    assert state(first) == state(second)
    assert first.marks == {"door": 1}
    assert first.params.overflow == "slide"
    assert first.template.id == "dialogue@1"
    first.undo()
    second.rewind("door")
    assert first.generate("And?") == second.generate("And?")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "top_k": 5},
        {"stop": ("\n", "é"), "stop_token_ids": [3, 4], "truncate": "left", "logprobs": 3},
        {"num_beams": 4, "early_stopping": "never", "force_words_ids": [[5, 6], [[7], [8, 9]]]},
        {"do_sample": False},
        {"guidance_scale": 1.5, "negative_prompt_ids": [1, 2]},
        {"dola_layers": [0, 2]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_every_kind_are_restored(options: Any, lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    session = lm.session(gpt2.SamplingParams(**options), seed=1)
    session.save(tmp_path / "x")
    assert lm.restore_session(tmp_path / "x").params == session.params


def test_an_empty_session_is_saved_too(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    session = lm.session(seed=2**64 - 1)
    session.save(tmp_path / "x")
    assert state(lm.restore_session(tmp_path / "x")) == state(session)


# --- writing ---


def test_a_failed_write_leaves_the_old_file(lm: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = file.read_bytes()
    session = lm.restore_session(file)
    session.append("more")
    for call in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(errors.SessionError, match="cannot be written: got No space"):
                session.save(file)
        assert file.read_bytes() == old
        assert os.listdir(file.parent) == [file.name]
    session.save(file)
    assert file.read_bytes() != old
    assert os.listdir(file.parent) == [file.name]


def test_nobody_else_may_read_it(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_where_nothing_can_be_written(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "x", tmp_path):
        with pytest.raises(errors.SessionError, match="cannot be written"):
            lm.session().save(path)
    assert os.listdir(tmp_path) == []


# --- of another model or build ---


def test_of_another_model(file: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(errors.SessionMismatch, match="vocab_size: saved with 6144, here") as caught:
        gpt2.load(tiny_checkpoint, threads=1).restore_session(file)
    assert "another model" in str(caught.value)
    assert caught.value.code == "session_mismatch"


def test_of_the_same_model_in_other_numbers(file: Path) -> None:
    with pytest.raises(errors.SessionMismatch, match="weights: saved with bfloat16, here int8") as caught:
        gpt2.load(weights="int8", cache="float32", threads=1).restore_session(file)
    assert "weights='bfloat16', cache='float32'" in str(caught.value)
    with pytest.raises(errors.SessionMismatch, match="cache: saved with float32, here int8"):
        gpt2.load(cache="int8", threads=1).restore_session(file)


def changed(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    return file


def test_of_the_same_shape_with_other_weights(lm: gpt2.LanguageModel, file: Path) -> None:
    changed(file, lambda r: r["model"]["files"].update({"model.safetensors": "0" * 64}))
    with pytest.raises(errors.SessionMismatch, match=r"model\.safetensors: saved with 000000000000, here"):
        lm.restore_session(file)


def test_of_a_build_that_computes_otherwise(lm: gpt2.LanguageModel, file: Path) -> None:
    changed(file, lambda r: r["model"].update(arithmetic="f" * 64, made_by="gpt2 9.9, amx"))
    with pytest.raises(errors.SessionMismatch, match="arithmetic: saved with ffffffffffff") as caught:
        lm.restore_session(file)
    assert "gpt2 9.9, amx" in str(caught.value)
    changed(file, lambda r: r["model"].update(arithmetic=lm.identity().arithmetic))
    lm.restore_session(file)  # another version that computes the same bits is none


def test_the_arithmetic_is_the_same_wherever_the_bits_are(isa: str, tiny_checkpoint: Path) -> None:
    """Two have bits of their own with bfloat16 weights; all others agree (docs/explanation)."""
    here, generic = (
        gpt2.load(tiny_checkpoint, isa=each, weights="bfloat16", threads=1).identity().arithmetic
        for each in (isa, "generic")
    )
    assert (here == generic) == (isa not in ("amx", "avx512bf16"))


# --- from strangers ---

LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another format": lambda r: r.update(format="gguf"),
    "another version": lambda r: r.update(version=2),
    "no model": lambda r: r.pop("model"),
    "an unknown field": lambda r: r.update(extra=1),
    "a field of the model": lambda r: r["model"].update(extra=1),
    "an id beyond the vocabulary": lambda r: r["tokens"].__setitem__(0, 6144),
    "a negative id": lambda r: r["tokens"].__setitem__(0, -1),
    "an id that is a truth value": lambda r: r["tokens"].__setitem__(0, True),
    "an id that is a fraction": lambda r: r["tokens"].__setitem__(0, 1.0),
    "tokens that no turn has": lambda r: r["tokens"].append(1),
    "turns without tokens": lambda r: r["tokens"].pop(),
    "turns that overlap": lambda r: r["turns"][1].update(end=3),
    "a window beyond the text": lambda r: r.update(window=10**6),
    "a window of a turn beyond it": lambda r: r["turns"][0].update(window=10**6),
    "a negative window": lambda r: r.update(window=-1),
    "draws without end": lambda r: r.update(draws=2**60),
    "a seed too large": lambda r: r.update(seed=2**64),
    "a seed of a turn too large": lambda r: r["turns"][0].update(seed=2**64),
    "an end that there is not": lambda r: r["turns"][0].update(finish_reason="bored"),
    "a mark beyond the turns": lambda r: r["marks"].update(door=3),
    "an option that there is not": lambda r: r["params"].update(tempratur=1),
    "an option out of range": lambda r: r["params"].update(temperature=-1),
    "an option of another kind": lambda r: r["params"].update(stop=7),
    "several texts": lambda r: r["params"].update(n=2),
    "a stop token beyond the vocabulary": lambda r: r["params"].update(stop_token_ids=[6144]),
    "a template without roles": lambda r: r["template"].pop("roles"),
    "a form without a slot": lambda r: r["template"]["roles"].update(user="x"),
    "a hash that is a number": lambda r: r["model"]["files"].update({"config.json": 1}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_with_its_name(lie: str, lm: gpt2.LanguageModel, file: Path) -> None:
    changed(file, LIES[lie])
    with pytest.raises(errors.SessionError) as caught:
        lm.restore_session(file)
    assert type(caught.value) is errors.SessionError
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00", b"{", b"[]", b"1", b"\xff\xfe{}", b"{}", b'{"format": "gpt2-session"}',
        b'{"tokens": [1e999]}', b'{"tokens": NaN}', b'{"a": 1, "a": 2}', b"[" * 200_000, b'{"a":' * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_session(data: bytes, lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(errors.SessionError):
        lm.restore_session(path)


def test_a_huge_file_is_not_read(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with open(path, "wb") as stream:
        stream.truncate(session_file.MAX_BYTES + 1)
    with pytest.raises(errors.SessionError, match="too large"):
        lm.restore_session(path)
    for wrong in (tmp_path, tmp_path / "absent", tmp_path / "a\0b"):
        with pytest.raises(errors.SessionError, match="cannot be read"):
            lm.restore_session(wrong)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, item in inside for place in places(item, (*at, key))]


@pytest.fixture(scope="module")
def honest(lm: gpt2.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a session's file."""
    path = tmp_path_factory.mktemp("honest") / "talk.json"
    session = lm.session(seed=3, max_new_tokens=3, template="dialogue")
    session.generate("Hello")
    session.mark("door")
    session.save(path)
    return path.read_text()


@given(st.data())
@settings(max_examples=80)
def test_any_value_anywhere_is_read_or_refused(
    lm: Any, honest: str, tmp_path_factory: Any, data: Any
) -> None:
    """Nothing but a session or a SessionError comes of it, and a session that comes of it works, unless its
    options ask for what cannot be."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    record = json.loads(honest)
    *way, last = data.draw(st.sampled_from(places(record)))
    inner = record
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(values)
    path.write_text(json.dumps(record))
    try:
        restored = lm.restore_session(path)
    except errors.SessionError:
        return
    restored.append("x")
    try:
        assert restored.generate(max_new_tokens=1, min_new_tokens=0, overflow="slide").tokens
    except errors.InvalidRequest:
        assert way == ["params"]
