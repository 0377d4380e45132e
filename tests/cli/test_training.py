"""`gpt2 train` and `gpt2 finetune` as a shell sees them: flags are settings, a flag wins over a recipe."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2.cli import training
from gpt2.cli.main import load_command, run_command
from gpt2.train.settings import Settings, setting_facts


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which a command would have trained."""
    seen: list[Settings] = []

    def note(settings: Settings, args: Any) -> int:
        seen.append(settings)
        return 0

    for name in ("train", "finetune"):
        command, _ = load_command(name)
        monkeypatch.setattr(command, "train", note)
    return seen


def test_every_setting_is_a_flag() -> None:
    _, parser = load_command("train")
    flags = {option for action in parser._actions for option in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in setting_facts()} <= flags


def test_a_flag_wins_over_the_recipe(started: list[Settings], tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('recipe = "pretrain"\ndata = ["a"]\nbatch = 4\n[rates]\nlr = 0.5\n', encoding="utf-8")
    assert run_command("train", [str(path), "--lr", "0.25", "--no-decay-positions", "--data", "b", "c"]) == 0
    expected = Settings.of("pretrain", data=("b", "c"), batch=4, lr=0.25, decay_positions=False)
    assert started == [expected]
    assert run_command("finetune", ["x.txt", "--output", "o", "--recipe", "lora", "-m", "m"]) == 0
    assert started[1] == Settings.of("lora", data=("x.txt",), output="o", model="m")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--batch", "0", "--data", "x"], 1, "batch"),
        (["--shedule", "cosine"], 2, "--schedule"),
        (["--schedule", "cosin"], 2, "wsd"),
        (["nowhere.toml"], 1, "nowhere.toml"),
        ([], 1, "both"),
    ],
)
def test_wrong_use_says_what_is_wrong(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if word == "both":
        pytest.importorskip("torch", reason="torch is not installed")
    assert run_command("train", arguments) == code
    assert word in capsys.readouterr().err


def test_without_pytorch_it_says_how_to_get_it() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from gpt2.cli.main import run_command\n"
        "sys.exit(run_command('finetune', ['x.txt', '--output', 'o']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "gpt2[train]"' in done.stderr


def test_progress_is_one_line_in_a_terminal_and_rare_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.StringIO):
        terminal = False

        def isatty(self) -> bool:
            return self.terminal

    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    for terminal, expected in ((False, "two\nsaid\n"), (True, "\r\x1b[Kone\r\x1b[Ktwo\nsaid\n")):
        stream = Stream()
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stream)
        lines = training.Lines()
        lines.progress("one")
        lines.progress("two")
        lines.say("said")
        assert stream.getvalue() == expected
