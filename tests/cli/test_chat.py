"""gpt2 chat: a script's lines in, replies out, the same bytes each time; on a terminal, what hands expect."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2.cli import arguments, chat_commands
from gpt2.cli.main import main

Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture
def chat(
    lm: gpt2.LanguageModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Chat:
    """Run `gpt2 chat` in this process on the bundled model; the lines are stdin. Files lie in tmp_path."""
    monkeypatch.setattr(arguments, "load_model", lambda args: lm)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*lines: str | bytes, flags: tuple[str, ...] = ("--seed", "5", "--max-new-tokens", "12")) -> Any:
        raw = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        code = main(["chat", *flags])
        return (code, *capsys.readouterr())

    return run


def replies(lm: gpt2.LanguageModel, *messages: str, **options: Any) -> str:
    """What the script's stdout must be."""
    session = lm.session(
        seed=5, preset="chat", template="dialogue", overflow="slide", **({"max_new_tokens": 12} | options)
    )
    return "".join(session.generate(message).text + "\n" for message in messages)


def test_a_script_gets_the_replies_and_nothing_else(chat: Chat, lm: gpt2.LanguageModel) -> None:
    assert chat("Hello", "", "Who is there?") == (0, replies(lm, "Hello", "Who is there?"), "")


def test_no_lines_no_replies(chat: Chat) -> None:
    assert chat() == (0, "", "")


def test_flags_reach_the_session(chat: Chat, lm: gpt2.LanguageModel) -> None:
    flags = ("--seed", "5", "--temperature", "0", "--max-new-tokens", "5", "--template", "story", "--json")
    code, out, _ = chat("It was dark", flags=(*flags, "--system", "A tale."))
    record = json.loads(out)
    expected = lm.generate("A tale.\n\nIt was dark", temperature=0, max_new_tokens=5)
    assert (code, record["text"], record["seed"]) == (0, expected.text, 5)


@pytest.mark.parametrize("command", ["/undo", "/undo 1", "/load talk", "/branch main"])
def test_back_to_where_it_stood(command: str, chat: Chat, lm: gpt2.LanguageModel) -> None:
    """Save and branch off after the first turn, say something else, come back: the next reply is as if
    nothing had been said."""
    aside = ["/save talk", "/branch side"] if "undo" not in command else []
    code, out, _ = chat("Hello", *aside, "Forget this", command, "Who is there?")
    shown = replies(lm, "Hello", "Forget this").splitlines(keepends=True)
    whole = replies(lm, "Hello", "Who is there?")
    assert (code, out) == (0, "".join(shown) + whole.removeprefix(replies(lm, "Hello")))


def test_retry_draws_another_reply_to_the_same_message(chat: Chat, lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=5, preset="chat", template="dialogue", max_new_tokens=12)
    session.generate("Hello")
    session.undo(keep_draws=True)
    again = session.generate("Hello").text
    assert chat("Hello", "/retry")[1] == replies(lm, "Hello") + again + "\n"


def test_more_goes_on_without_a_message(chat: Chat, lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=5, preset="chat", template="dialogue", max_new_tokens=12)
    expected = [session.generate("Hello").text, session.generate().text]
    assert (
        chat("Hello", "/more")[1].splitlines(keepends=True)[-1]
        == ("".join(f"{text}\n" for text in expected).splitlines(keepends=True)[-1])
    )


def test_two_slashes_are_a_message(chat: Chat, lm: gpt2.LanguageModel) -> None:
    assert chat("//undo")[1] == replies(lm, "/undo")


def test_params_seed_and_template_change_what_comes_next(chat: Chat, lm: gpt2.LanguageModel) -> None:
    script = (
        '/params temperature=0 max-new-tokens=4 stop="x y"',
        "/template plain",
        "/seed 9",
        "The sea",
        "/seed",
    )
    code, out, err = chat(*script)
    assert (code, out) == (
        0,
        lm.generate("The sea", preset="chat", temperature=0, max_new_tokens=4).text + "\n",
    )
    assert "temperature = 0.0\n" in err
    assert "stop = ('x y',)" in err
    assert "template plain@1" in err
    assert "seed 9, 1 replies drawn with it" in err


def test_help_lists_every_command(chat: Chat) -> None:
    err = chat("/help", "/params top_k")[2]
    assert all(f"/{name} " in err for name in chat_commands.COMMANDS)
    assert "top_k = 0  Keep the k most probable tokens" in err


def test_quit_ends_it(chat: Chat, lm: gpt2.LanguageModel) -> None:
    assert chat("Hello", "/quit", "Who is there?") == (0, replies(lm, "Hello"), "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/udno", "did you mean 'undo'"),
        ("/zzz", "a message that begins with / needs two"),
        ("/undo 7", "undo: got 7, expected 1 to 1"),
        ("/undo x", "/undo: got 'x'"),
        ("/seed -1", "/seed: got '-1'"),
        ("/seed 99999999999999999999", "seed"),
        ("/params tempratur=1", "did you mean 'temperature'"),
        ("/params temperature=hot", "temperature: got 'hot'"),
        ("/params temperature=-1", "temperature: got -1"),
        ("/params n=2", "one text"),
        ("/params ignore_eos=maybe", "ignore_eos"),
        ("/template chatmll", "did you mean 'chatml'"),
        ("/template absent.toml", "cannot be read"),
        ("/save", "/save FILE"),
        ("/save absent/x", "cannot be written"),
        ("/load", "/load FILE"),
        ("/load absent", "cannot be read"),
        ("/system", "/system TEXT"),
        ("word " * 600, "does not fit"),
    ],
)
def test_a_wrong_line_says_why_and_loses_nothing(line: str, says: str, chat: Chat, lm: Any) -> None:
    flags = ("--seed", "5", "--max-new-tokens", "12", "--overflow", "stop")
    code, out, err = chat("Hello", line, "Who is there?", flags=flags)
    assert says in err
    assert (code, out) == (1, replies(lm, "Hello", "Who is there?"))


def test_what_cannot_be_begun(chat: Chat, lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    for flags in (("--template", "chatmll"), ("--load", "absent"), ("--temperature", "-1")):
        code, out, err = chat("Hello", flags=flags)
        assert (code, out) == (1, "")
        assert "expected" in err or "cannot be read" in err
    assert chat("/retry")[0] == 1


def test_a_line_that_is_not_utf8_is_named(chat: Chat, lm: gpt2.LanguageModel) -> None:
    code, out, err = chat("Hello", b"caf\xe9")
    assert (code, out) == (1, replies(lm, "Hello"))
    assert "stdin, line 2: the line is not UTF-8: got byte 0xe9" in err


def test_a_long_talk_forgets_its_beginning_and_says_so(chat: Chat) -> None:
    code, out, err = chat(*[f"{i} " + "and then " * 100 for i in range(4)])
    assert (code, out.count("\n") >= 4) == (0, True)
    assert "the older half of the talk was forgotten" in err


def test_completion_of_commands() -> None:
    assert chat_commands.complete("/un", 0) == "/undo "
    assert chat_commands.complete("/un", 1) is None
    assert chat_commands.complete("hello", 0) is None


# --- on a terminal ---


class Terminal:
    """A pseudo-terminal with `gpt2 chat` at its other end."""

    def __init__(self, *flags: str) -> None:
        self.ours, theirs = pty.openpty()
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "INPUTRC")}
        self.program = subprocess.Popen(
            [sys.executable, "-m", "gpt2", "chat", *flags],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=env | {"TERM": "xterm", "INPUTRC": os.devnull},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C typed is a signal
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait_for(self, what: str, seconds: float = 60) -> str:
        """Read until this was shown (after what was waited for before); colours are left out."""
        deadline = time.monotonic() + seconds
        while what not in self.shown:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited for {what!r}, got {self.shown!r}"
            self.shown += re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", os.read(self.ours, 4096).decode())
        before, _, self.shown = self.shown.partition(what)
        return before

    def end(self) -> int:
        return self.program.wait(60)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*flags: str) -> Terminal:
        opened.append(Terminal(*flags))
        return opened[-1]

    yield open_one
    for each in opened:
        each.program.kill()
        each.program.wait()
        os.close(each.ours)


def test_a_talk_on_a_terminal(terminal: Callable[..., Terminal], lm: gpt2.LanguageModel) -> None:
    talk = terminal("--seed", "5", "--max-new-tokens", "12", "--threads", "1")
    assert "template dialogue@1, seed 5; /help for commands" in talk.wait_for("> ")
    talk.type("Hxllo" + "\x02" * 4 + "\x04e\x05\r")  # back four, delete under the cursor, "e", to the end
    reply = replies(lm, "Hello").replace("\n", "\r\n")
    talk.wait_for(reply)
    talk.wait_for("> ")
    talk.type("/und\t\r")
    talk.wait_for("taken back; 0 turns")
    talk.type("\x10\x10\r")  # the line before the last one, from the history
    talk.wait_for(reply)
    talk.wait_for("> ")
    talk.type("half a line")
    talk.wait_for("half a line")
    talk.type("\x03")
    talk.wait_for("> ")
    talk.type("/nonsense\r")
    talk.wait_for("there is no command /nonsense")
    talk.type("\x04")
    assert talk.end() == 0


def test_ctrl_c_stops_the_reply_and_not_the_program(terminal: Callable[..., Terminal]) -> None:
    talk = terminal("--seed", "5", "--max-new-tokens", "1000000", "--ignore-eos", "--template", "story")
    talk.wait_for("> ")
    talk.type("It was a dark night\r")
    talk.wait_for("It was a dark night\r\n")
    talk.wait_for(" ")  # of the reply
    talk.type("\x03")
    talk.wait_for("(stopped)")
    talk.wait_for("> ")
    talk.type("/branch\r")
    talk.wait_for("* main: 1 turns")
    talk.type("/quit\r")
    assert talk.end() == 0


def test_ctrl_c_ends_a_script(lm: gpt2.LanguageModel) -> None:
    command = [sys.executable, "-m", "gpt2", "chat", "--max-new-tokens", "1000000", "--ignore-eos"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"Hello\n")
        program.stdin.close()
        program.stdout.read(1)
        program.send_signal(signal.SIGINT)
        program.stdout.read()
        assert program.wait(60) == 130
