"""--adapter: the commands that take it hand it to the model's calls."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import gpt2
from adapters import random_adapter
from gpt2.cli.main import main
from gpt2.weights.adapters import save_adapter

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture(scope="module")
def folder(lm: gpt2.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(
        tmp_path_factory.mktemp("adapter"), random_adapter(lm.config, 3, dora=True), lm.config
    )


def test_the_commands_use_the_adapter(
    lm: gpt2.LanguageModel, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = lm.load_adapter(folder).name

    def out(command: str, *flags: str, stdin: bytes = b"") -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert main([command, "--json", "--threads", "1", "--adapter", str(folder), *flags]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 6}
    done = lm.generate(PROMPT, adapter=name, **options)
    assert isinstance(done, gpt2.Completion)
    assert done.text != lm.generate(PROMPT, **options).text  # type: ignore[union-attr]
    flags = ("--temperature", "0", "--max-new-tokens", "6")
    assert out("generate", PROMPT, *flags)[-1]["text"] == done.text
    assert out("score", PROMPT)[0]["total_logprob"] == lm.score(PROMPT, adapter=name).total
    assert out("next", PROMPT)[0]["id"] == lm.next_tokens(PROMPT, adapter=name)[0].id
    assert out("suggest", PROMPT)[0]["text"] == lm.suggest(PROMPT, adapter=name)[0].text
    said = lm.session(adapter=name, template="plain", **options).generate("It was").text
    assert out("chat", "--template", "plain", *flags, stdin=b"It was\n")[0]["text"] == said


def test_an_adapter_of_another_model_is_an_error_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = gpt2.GPT2Config(n_embd=32, n_head=2, n_layer=1, vocab_size=99)
    save_adapter(tmp_path, random_adapter(other), other)
    assert main(["generate", "--adapter", str(tmp_path), "x"]) == 1
    assert "the adapter belongs to another model" in capsys.readouterr().err
    assert main(["score", "--adapter", str(tmp_path / "nothing"), "x"]) == 1
    assert "this is no adapter" in capsys.readouterr().err
