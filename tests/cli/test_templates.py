"""gpt2 templates: the list, one in full, and which is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2.cli import arguments
from gpt2.cli.main import main
from gpt2.decoding import TEMPLATES

EXAMPLES = [[["user", "Who is that lady?"], ["assistant", "That is my sister."]]] * 2


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture
def run(lm: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(arguments, "load_model", lambda args: lm)

    def once(*argv: str) -> tuple[int, str, str]:
        return (main(["templates", *argv]), *capsys.readouterr())

    return once


def test_the_list(run: Any) -> None:
    code, out, _ = run()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [template.id for template in TEMPLATES]


def test_one_in_full_is_toml_but_for_its_tables(run: Any) -> None:
    code, out, _ = run("--show", "dialogue", "--json")
    assert code == 0
    assert json.loads(out) == gpt2.Template.named("dialogue").as_dict()
    assert 'stop = ["\\nUser:", "\\nAssistant:"]' in run("--show", "dialogue")[1]


def test_comparison(run: Any, lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, EXAMPLES)) + "\n\n")
    code, out, _ = run("--compare", str(path), "--use", "plain", "--use", "chatml@1", "--json")
    pairs: Any = EXAMPLES
    result = gpt2.compare_templates(lm, pairs, ["plain", "chatml@1"])
    assert code == 0
    assert [json.loads(line)["bits"] for line in out.splitlines()] == [list(s.bits) for s in result.scores]
    table = run("--compare", str(path))[1]
    assert len(table.splitlines()) == 1 + len(TEMPLATES)


@pytest.mark.parametrize("line", ["{", "[]", '[["user"]]', "[[1, 2]]", "7", "[" * 100_000])
def test_a_wrong_line_is_named(line: str, run: Any, tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(EXAMPLES[0]) + "\n" + line)
    code, _, err = run("--compare", str(path))
    assert code == 1
    assert "line 2: this is no example" in err


def test_no_examples(run: Any, tmp_path: Path) -> None:
    assert run("--compare", str(tmp_path / "absent"))[0] == 1
    tmp_path.joinpath("empty").write_text("")
    assert "nothing to compare" in run("--compare", str(tmp_path / "empty"))[2]
