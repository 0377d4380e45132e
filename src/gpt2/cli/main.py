"""The command `gpt2`: the table of commands, and what happens around each of them.

Here is decided what a command's end means: results go to stdout, everything else to stderr; the exit code is
0 done, 1 an error of ours (its text, no traceback unless --debug), 2 wrong usage, 130 Ctrl-C. What a command
does is in its own file, and nothing is imported before one has been chosen: start-up time is a feature.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("gpt2.cli.generate", "Continue a prompt and stream the text"),
    "chat": ("gpt2.cli.chat", "Talk with a model in turns"),
    "next": ("gpt2.cli.next", "Show the most probable next tokens of a prompt"),
    "suggest": ("gpt2.cli.suggest", "Show how a text may go on that ends anywhere"),
    "score": ("gpt2.cli.score", "Show how surprising each token of a text is"),
    "tokenize": ("gpt2.cli.tokenize", "Turn text into tokens, or tokens into text"),
    "templates": ("gpt2.cli.templates", "Show prompt templates, or compare them by score"),
    "prepare": ("gpt2.cli.prepare", "Turn files of text into tokens to train on"),
    "finetune": ("gpt2.cli.finetune", "Tune a model on your own text"),
    "train": ("gpt2.cli.train", "Train a model as a recipe says"),
    "quantize": ("gpt2.cli.quantize", "Write a smaller model: weights rounded to int8 or int4"),
    "inspect": ("gpt2.cli.inspect", "Show what is inside a model directory or a weights file"),
    "pull": ("gpt2.cli.pull", "Download a model, so that it can be used without a network"),
    "list": ("gpt2.cli.list", "List the models on this machine"),
    "licenses": ("gpt2.cli.licenses", "Show the licences of gpt2, its model and what they need"),
}

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class Command(Protocol):
    """What the file of a command offers; its docstring is the text of `gpt2 COMMAND --help`."""

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def run(self, args: Namespace) -> int: ...


def entry() -> int:
    """The console script: run the command of sys.argv and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # a terminal that cannot show a character gets an escape, not a crash
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told apart
        return code
    except KeyboardInterrupt:
        _discard_stdout()
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has what it wanted
        _discard_stdout()
        return DONE
    except OSError as error:  # of stdout itself: a full disk, a closed descriptor
        _discard_stdout()
        _complain(f"cannot write the result: {error}")
        return FAILED


def main(argv: list[str]) -> int:
    """Run one command line (without the program's name) and return the exit code."""
    name, *rest = argv or [""]
    if name == "help":
        name, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if name in ("-h", "--help"):
        print(overview(), end="")
        return DONE
    if name in ("-V", "--version"):
        from importlib.metadata import version

        print(f"gpt2 {version('gpt2')}")
        return DONE
    if name not in COMMANDS:
        print(_no_such_command(name), end="", file=sys.stderr)
        return WRONG_USAGE
    return run_command(name, rest)


def run_command(name: str, argv: list[str]) -> int:
    """Parse the arguments of the command and run it; its errors become text on stderr and an exit code."""
    command, parser = load_command(name)
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or what was wrong
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    debug: bool = args.debug
    try:
        return command.run(args)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        if debug:
            raise
        return _failed(error)


def load_command(name: str) -> tuple[Command, ArgumentParser]:
    """The command's module, and its parser with all its arguments."""
    from importlib import import_module

    from gpt2.cli.arguments import new_parser

    module = import_module(COMMANDS[name][0])
    command = cast(Command, module)
    parser = new_parser(f"gpt2 {name}", module.__doc__ or "")
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command, parser


def overview() -> str:
    """The text of `gpt2 --help`."""
    lines = [
        "usage: gpt2 COMMAND [ARGUMENTS]",
        "",
        "Run, measure and explain language models of the GPT-2 architecture.",
        "",
    ]
    lines += [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "  gpt2 COMMAND --help   arguments and examples of a command",
        "  gpt2 --version        the version",
        "",
    ]
    lines += ['Start with:  gpt2 generate "Once upon a time"', ""]
    return "\n".join(lines)


def _no_such_command(name: str) -> str:
    if not name:
        return overview()
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "see: gpt2 --help"
    return f"gpt2: there is no command {name!r}; {advice}\n"


def _failed(error: Exception) -> int:
    from gpt2.errors import Error

    if isinstance(error, Error):
        _complain(f"{type(error).__name__}: {error}")
    elif isinstance(error, MemoryError):
        _complain("OutOfMemory: the machine has no memory left for this")
    elif isinstance(error, OSError) and error.filename is None:
        raise error  # stdout: entry() knows what that means
    else:
        _complain(
            f"{type(error).__name__}: {error}\n"
            "  try: the same command with --debug, which shows where it happened"
        )
    return FAILED


def _complain(text: str) -> None:
    if sys.stderr is None:
        return
    from gpt2.cli.terminal import Terminal

    head, colon, rest = text.partition(":")
    print(f"{Terminal(sys.stderr).paint(head, 'red')}{colon}{rest}", file=sys.stderr)


def _discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail on what is still buffered."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
