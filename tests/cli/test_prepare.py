"""gpt2 prepare: flags in, a folder of tokens out, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2.cli.prepare import ProgressLine
from gpt2.train.data import Progress, Tokens

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    rows = "".join(f"What is {i}?, It is the number {i}.\n" for i in range(40))
    path.write_text("question,answer\n" + rows)
    return path


def test_a_table_of_prompts_and_completions(pairs: Path, tmp_path: Path, process: Run) -> None:
    command = ["prepare", str(pairs), "--output", str(tmp_path / "out"), "--validation", "0.2"]
    command += ["--prompt-column", "question", "--completion-column", "answer"]
    done = process(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'out'}\n  train")
    tokens = Tokens(tmp_path / "out")
    splits = [tokens.split(name) for name in ("train", "validation")]
    assert sum(map(len, splits)) == 40
    assert splits[0].loss_from is not None
    again = process(*command, "--json")
    assert json.loads(again.stdout)["splits"] == tokens.index["splits"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "there is no column 'text': got the columns 'question', 'answer'"),
        (["--text-column", "reply"], "there is no column 'reply'"),
        (["--prompt-column", "question"], "both, or neither"),
        (["--validation", "2"], "validation: got 2.0"),
        (["--near-duplicates", "7"], "near_duplicates"),
        (["--threads", "0"], "threads"),
        (["--decontaminate", "absent.jsonl"], "absent.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    flags: list[str], said: str, pairs: Path, tmp_path: Path, process: Run
) -> None:
    done = process("prepare", str(pairs), "--output", str(tmp_path / "out"), *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_line_of_progress() -> None:
    line = ProgressLine.line(Progress("tokenise", 250_000_000, 1_000_000_000, 60_000_000), seconds=2.0)
    assert line == "tokenising  25%  250 of 1,000 MB  125 MB/s  60,000,000 tokens  6 s left"
    assert ProgressLine.line(Progress("write", 1, 2, 2), 1.0) == "writing  50%"
    assert ProgressLine.line(Progress("choose", 0, 0, 0), 1.0) == "choosing what stays"
