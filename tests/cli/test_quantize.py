"""quantize: what it prints, where it writes, what it refuses; the writing itself is tested in tests/cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Gpt2 = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_quantize_prints_what_was_measured(gpt2: Gpt2, here: Path) -> None:
    (here / "text").write_text("It was a dark and stormy night. " * 20)
    done = gpt2("quantize", "demo", "--weights", "int4", "--group", "64", "--text", "text")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "demo-int4"
    assert [line.split()[0] for line in lines[1:]] == ["scheme", "weights", "held-out", "divergence"]
    assert "int4, groups of 64, symmetric, embedding int8, equalised" in lines[1]
    assert "measuring the source on 640 bytes" in done.err
    assert gpt2("inspect", "demo-int4").code == 0
    again = gpt2("quantize", "demo", "--weights", "int4")
    assert (again.code, again.out) == (1, "")
    assert "there already" in again.err


def test_quantize_json_is_the_card(gpt2: Gpt2, here: Path) -> None:
    done = gpt2(
        "quantize", "demo", "--weights", "int8", "--zero-point", "--no-equalise", "--output", "a/b", "--json"
    )
    assert json.loads(done.out) == json.loads((here / "a" / "b" / "card.json").read_text())
    scheme = json.loads((here / "a" / "b" / "config.json").read_text())["quantization"]
    assert (scheme["symmetric"], scheme["equalised"]) == (False, False)


def test_inspect_of_what_it_wrote(gpt2: Gpt2, here: Path) -> None:
    from gpt2.cards import write_card
    from gpt2.cards.quantised import write_quantised
    from gpt2.weights import Scheme

    write_quantised(None, here, Scheme(method="int8"))
    facts = {"name": "the\nsource", "sha256": "0" * 64}
    near = {"text": {"increase_percent": 0.05}, "on_samples_of_the_source": {"mean_kl_bits": 0.002}}
    write_card(here, {"source": facts, "quality": near})
    out = gpt2("inspect", ".").out
    for part in ("int8, symmetric, equalised", " MB as int8;", "the\\nsource", "0" * 16, "+0.050 %",
                 "0.00200 bits", "no problems found"):  # fmt: skip
        assert part in out, part
    record = json.loads(gpt2("inspect", ".", "--json").out)
    assert record["card"]["quality"] == near
    assert record["memory_bytes"]["int8"] == sum(tensor["bytes"] for tensor in record["tensors"])
    for card in ({"quality": []}, {"source": 1, "quality": {"text": 2}}, {"source": {"name": 3}}):
        write_card(here, card)
        assert gpt2("inspect", ".").code == 0
    (here / "card.json").write_text("{")
    assert "the card is no JSON" in gpt2("inspect", ".").out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["demo"], 2, "--weights"),
        (["demo", "--weights", "int3"], 2, "int3"),
        (["demo", "--weights", "int8", "--group", "32"], 1, "group"),
        (["demo", "--weights", "int4", "--group", "48"], 1, "group"),
        (["nowhere/at/all", "--weights", "int8"], 1, "ModelNotFound"),
        (["demo", "--weights", "int8", "--text", "absent"], 1, "the text cannot be read"),
        (["demo", "--weights", "int8", "--text", "latin1"], 1, "not UTF-8"),
    ],
)
def test_quantize_refuses(gpt2: Gpt2, here: Path, argv: list[str], code: int, message: str) -> None:
    (here / "latin1").write_bytes(b"caf\xe9")
    done = gpt2("quantize", *argv)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert [p.name for p in here.iterdir()] == ["latin1"]


def test_quantize_interrupted_leaves_nothing(gpt2: Gpt2, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2.cards import quantised

    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantised, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gpt2("quantize", "demo", "--weights", "int8")
    assert not list(here.iterdir())
