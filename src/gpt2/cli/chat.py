"""Talk with a model in turns. Each line is a message, and the reply is streamed.

    gpt2 chat
    gpt2 chat --template story --seed 7
    gpt2 chat -m ./tuned --template chatml --system "You are a pirate." --load talk.json
    printf 'Hello\\n/undo\\nGood evening\\n' | gpt2 chat --seed 1

On a terminal lines can be edited, Ctrl-C stops a reply (what was said of it stays), and Ctrl-D ends the
talk. From a file or a pipe the replies alone go to stdout, one after the other, and the exit code is 1 if a
line was refused; the same lines, seed and model give the same bytes. /help lists the commands; a message that
begins with / is written with two.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpt2.cli import arguments
from gpt2.cli.chat_commands import Quit, Talk, complete
from gpt2.cli.terminal import Terminal
from gpt2.errors import Error, InvalidRequest

if TYPE_CHECKING:
    from gpt2.engine.reply import Reply

PROMPT = "> "


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--template",
        default="dialogue",
        metavar="NAME|FILE",
        help="how messages are written: plain, story, dialogue, chatml, alpaca, or a .toml file "
        "(default: dialogue)",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="said before everything, in the template's system role"
    )
    parser.add_argument("--load", metavar="FILE", help="go on with a talk that /save wrote")
    parser.add_argument("--json", action="store_true", help="JSON lines: one object per reply")
    arguments.add_model_arguments(parser)
    arguments.add_adapter_argument(parser)
    arguments.add_sampling_arguments(parser, default_preset="chat", overflow="slide")


def run(args: Namespace) -> int:
    params = arguments.sampling_params(args, n=1, default_preset="chat")
    if not hasattr(args, "overflow"):
        params = params.replace(overflow="slide")  # a talk that ends because it was long is no talk
    model = arguments.load_model(args)
    session = model.session(params, template=args.template, **arguments.adapter_options(model, args))
    talk = Talk(model=model, session=session, say=_note)
    if args.system is not None:
        talk.session.say(args.system, role="system")
    if args.load is not None:
        talk.load(args.load)
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if interactive:
        session = talk.session
        _note(f"{model.name}, template {session.template.id}, seed {session.seed}; /help for commands")
        _edit_lines()
    return _talk(talk, _typed() if interactive else _piped(), interactive, args.json)


def _talk(talk: Talk, lines: Iterator[str], interactive: bool, as_json: bool) -> int:
    refused = False
    for line in lines:
        try:
            reply = talk.take(line)
            if reply is not None:
                _show(reply, as_json)
        except Quit:
            break
        except Error as error:
            refused = True
            _note(f"{type(error).__name__}: {error}", "red")
        except KeyboardInterrupt:
            if not interactive:
                raise
            _note("(stopped)")
    return 1 if refused and not interactive else 0


def _show(reply: Reply, as_json: bool) -> None:
    """Stream a reply. Ctrl-C ends it; what was shown of it stays in the session."""
    terminal = Terminal(sys.stdout)
    try:
        with reply:
            for chunk in reply:
                if not as_json:
                    print(terminal.safe(chunk.text), end="", flush=True)
    except KeyboardInterrupt:
        if not as_json:
            print(flush=True)
        raise
    if as_json:
        _print_json(reply)
    else:
        print(flush=True)
    _report(reply)


def _print_json(reply: Reply) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps(asdict(reply.whole())), flush=True)


def _report(reply: Reply) -> None:
    """What the reader of the text cannot see."""
    whole = reply.whole()
    if cut := whole.truncated:
        _note(f"note: {cut.stop - cut.start} of {cut.original} tokens were cut ({cut.policy})")
    if whole.slides:
        _note("note: the context window was full; the older half of the talk was forgotten")
    if whole.finish_reason == "context":
        _note("note: the context window is full; --overflow slide goes on without the beginning")


def _note(text: str, style: str = "dim") -> None:
    if sys.stderr is not None:
        print(Terminal(sys.stderr).paint(text, style), file=sys.stderr, flush=True)


def _edit_lines() -> None:
    """Line editing and history where the system has readline; the history ends with the program."""
    try:
        import readline
    except ImportError:
        return
    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")


def _typed() -> Iterator[str]:
    """Lines from a terminal. Ctrl-C drops the line that is being typed, Ctrl-D ends."""
    on_stdout = sys.stdout is not None and sys.stdout.isatty()
    while True:
        try:
            if not on_stdout:  # input() would write its prompt among the replies
                print(PROMPT, end="", file=sys.stderr, flush=True)
            yield input(PROMPT if on_stdout else "")
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return


def _piped() -> Iterator[str]:
    """Lines of a file or a pipe. Raises InvalidRequest for bytes that are not UTF-8."""
    if sys.stdin is None:
        return
    for at, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                "the line is not UTF-8", where=f"stdin, line {at}", got=f"byte 0x{raw[error.start]:02x}",
                hint="iconv -f LATIN1 -t UTF-8, or the encoding that the text is in",
            ) from None  # fmt: skip
