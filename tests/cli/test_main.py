"""What every command has in common: help, exit codes, where text goes, and how errors look."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gpt2.cli import arguments, main
from gpt2.cli import generate as generate_command
from gpt2.errors import ModelNotFound

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Gpt2 = Callable[..., Any]


def test_help_names_every_command(process: Run) -> None:
    done = process("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(re.search(rf"^  {name} ", done.stdout, flags=re.MULTILINE) for name in main.COMMANDS)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_of_every_command_has_an_example(command: str, process: Run) -> None:
    done = process(command, "--help")
    assert done.returncode == 0
    assert f"\n    gpt2 {command}" in done.stdout
    assert process("help", command).stdout == done.stdout


def test_version(process: Run) -> None:
    assert re.fullmatch(r"gpt2 \d+\.\d+\.\d+\S*\n", process("--version").stdout)


def test_unknown_command_is_wrong_usage_with_advice(process: Run) -> None:
    done = process("genrate", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'generate'?" in done.stderr


def test_no_command_is_wrong_usage_and_shows_the_commands(process: Run) -> None:
    done = process()
    assert (done.returncode, done.stdout) == (2, "")
    assert "generate" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generate", "--temprature", "1", "x"], "did you mean '--temperature'?"),
        (["generate", "Once", "upon"], "needs quotes"),
        (["generate", "--temperature", "hot", "x"], "invalid float value: 'hot'"),
        (["generate", "--preset", "poem", "x"], "invalid choice"),
        (["next", "--top"], "expected one argument"),
    ],
)
def test_wrong_usage(argv: list[str], said: str, process: Run) -> None:
    done = process(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generate", "--temperature", "nan", "x"], "temperature"),
        (["generate", "--top-p", "0", "x"], "top_p"),
        (["generate", "--num", "0", "x"], "n:"),
        (["generate", "--stop", "", "x"], "stop"),
        (["tokenize", "--decode", "12", "a"], "not a token id"),
    ],
)
def test_an_impossible_value_is_an_error_of_ours(argv: list[str], said: str, gpt2: Gpt2) -> None:
    done = gpt2(*argv)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("InvalidRequest: ")
    assert said in done.err
    assert "Traceback" not in done.err
    assert 1 <= done.err.count("\n") <= 5


def fail_with(error: BaseException) -> Callable[[Namespace], NoReturn]:
    def load_model(args: Namespace) -> NoReturn:
        raise error

    return load_model


def test_debug_shows_where(gpt2: Gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "load_model", fail_with(ModelNotFound("no such model", got="x")))
    with pytest.raises(ModelNotFound):
        gpt2("generate", "--debug", "x")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelNotFound("no such model", got="x", hint="gpt2 list"), "ModelNotFound: no such model: got x"),
        (MemoryError(), "OutOfMemory: "),
        (ZeroDivisionError("our bug"), "ZeroDivisionError: our bug\n  try: the same command with --debug"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.bin"), "FileNotFoundError: "),
    ],
)
def test_errors_are_short(error: Exception, said: str, gpt2: Gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "load_model", fail_with(error))
    done = gpt2("generate", "x")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(said)
    assert "Traceback" not in done.err


def start(body: str, **options: Any) -> subprocess.Popen[bytes]:
    """A process whose `gpt2 generate` does `body` where the model would be loaded."""
    code = (
        "import sys\nfrom gpt2.cli import arguments, main\n"
        f"def load_model(args):\n    {body}\n"
        "arguments.load_model = load_model\nsys.argv = ['gpt2', 'generate', 'x']\nsys.exit(main.entry())\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=env, **options)


ENDLESS = "from fakes import FakeModel; return FakeModel('many words ' * 100_000)"


def test_ctrl_c_while_loading_is_130_and_silent() -> None:
    with start("import signal; signal.raise_signal(signal.SIGINT)") as program:
        assert program.communicate(timeout=20) == (b"", b"")
        assert program.returncode == 130


def test_a_closed_pipe_is_quiet() -> None:
    with start(ENDLESS) as program:
        assert program.stdout
        assert program.stdout.read(5) == b"many "
        program.stdout.close()  # what `head` does
        assert program.stderr
        assert program.stderr.read() == b""
        assert program.wait(20) == 0


def test_ctrl_c_stops_a_stream_at_once() -> None:
    with start(ENDLESS) as program:
        assert program.stdout
        assert program.stdout.read(5) == b"many "
        before = time.monotonic()
        program.send_signal(signal.SIGINT)
        program.stdout.close()
        assert program.wait(20) == 130
        assert time.monotonic() - before < 5
        assert program.stderr
        assert program.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_is_an_error_not_a_crash() -> None:
    with open("/dev/full", "wb") as full, start(ENDLESS, stdout=full) as program:
        assert program.stderr
        assert program.stderr.read().startswith(b"cannot write the result: ")
        assert program.wait(20) == 1


def test_closed_stdout_is_no_crash() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m gpt2 --help >&-', sys.executable], capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr


def test_the_table_of_commands_is_all_there_is() -> None:
    """Every file of the room is a command of the table or one of the shared pieces."""
    here = {path.stem for path in Path(generate_command.__file__).parent.glob("*.py")}
    assert here - {"__init__", "main", "arguments", "terminal", "chat_commands", "training"} == {
        module.rpartition(".")[2] for module, _ in main.COMMANDS.values()
    }
