"""Continue a prompt and stream the text to stdout as it is made.

    gpt2 generate "Once upon a time"
    gpt2 generate --preset exact --max-new-tokens 40 "The sea was"
    gpt2 generate --adapter my-lora "The sea was"
    cat notes.txt | gpt2 generate -m openai-community/gpt2 --temperature 0.7 --json

The prompt is the argument, or stdin where there is none; without either the model starts from nothing. On a
terminal the prompt is shown before the text; a file or a pipe gets the continuation alone.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator

from gpt2.cli import arguments
from gpt2.cli.terminal import Terminal
from gpt2.protocols import Chunk, Completion


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text to continue; stdin when absent")
    parser.add_argument(
        "--num",
        type=int,
        default=1,
        metavar="N",
        help="alternatives of the same prompt, computed together (default: 1)",
    )
    parser.add_argument(
        "--json", action="store_true", help="JSON lines: each piece as it comes, then each whole result"
    )
    arguments.add_model_arguments(parser)
    arguments.add_adapter_argument(parser)
    arguments.add_sampling_arguments(parser)


def run(args: Namespace) -> int:
    prompt = arguments.read_text(args.prompt, is_prompt=True)
    params = arguments.sampling_params(args, n=args.num)
    model = arguments.load_model(args)
    chunks = model.stream(prompt, params, **arguments.adapter_options(model, args))
    if args.json:
        _write_json(chunks)
    else:
        _write_text(prompt, chunks, args.num)
    return 0


def _write_text(prompt: str, chunks: Iterable[Chunk], num: int) -> None:
    terminal = Terminal(sys.stdout)
    if terminal.is_terminal and num == 1 and sys.stderr is not None and sys.stderr.isatty():
        print(terminal.paint(terminal.safe(prompt), "dim"), end="", file=sys.stderr, flush=True)
    at = -1
    for chunk in in_order(chunks):
        if num > 1 and chunk.index != at:
            print(terminal.paint(f"--- {chunk.index + 1} of {num} ---", "dim"))
        at = chunk.index
        print(terminal.safe(chunk.text), end="", flush=True)
        if chunk.finish_reason is not None:
            print(flush=True)
            _report(chunk.completion)


def in_order(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks of alternative 0 as they come, then those of 1, ...; what comes too early waits."""
    at, waiting = 0, dict[int, list[Chunk]]()
    for chunk in chunks:
        waiting.setdefault(chunk.index, []).append(chunk)
        while ready := waiting.pop(at, None):
            yield from ready
            if ready[-1].finish_reason is None:
                break
            at += 1


def _report(completion: Completion | None) -> None:
    """Say on stderr what the reader of the text cannot see: that something was cut, or that the window
    moved."""
    if completion is None:
        return
    if cut := completion.truncated:
        removed = cut.stop - cut.start
        print(f"note: {removed} of {cut.original} prompt tokens were cut ({cut.policy})", file=sys.stderr)
    if completion.slides:
        print(
            f"note: the context window was moved {completion.slides} times; the beginning was forgotten",
            file=sys.stderr,
        )
    if completion.finish_reason == "context":
        print(
            "note: the context window is full; --overflow slide goes on without the beginning",
            file=sys.stderr,
        )


def _write_json(chunks: Iterable[Chunk]) -> None:
    import json
    from dataclasses import asdict

    for chunk in chunks:
        record = {
            key: value for key, value in asdict(chunk).items() if value is not None and key != "completion"
        }
        print(json.dumps({"type": "chunk"} | record), flush=True)
        if chunk.completion is not None:
            print(json.dumps({"type": "completion"} | asdict(chunk.completion)), flush=True)
