"""Fixtures of the command line's tests: a command run in this process on a fake model, or as a real
process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fakes import ByteTokenizer, FakeModel
from gpt2.cli import arguments
from gpt2.cli.main import main


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """The model that every command of this test loads, whatever -m says."""
    fake = FakeModel()
    monkeypatch.setattr(arguments, "load_model", lambda args: fake)
    monkeypatch.setattr(arguments, "load_tokenizer", lambda model: ByteTokenizer())
    return fake


@pytest.fixture
def gpt2(
    model: FakeModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run a command line in this process, with the fake model; stdin is `stdin`."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*argv: str, stdin: bytes = b"", **env: str) -> Result:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(list(argv))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line as a user would: a process of its own, stdin closed."""

    def run(*argv: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
        done = subprocess.run(
            [sys.executable, "-m", "gpt2", *argv],
            input=stdin,
            capture_output=True,
            env=clean | env,
            check=False,
        )
        return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
