"""Show the most probable next tokens of a prompt.

    gpt2 next "The capital of France is"
    gpt2 next --top 20 --json "Once upon a"

The probabilities are the model's own: no temperature, no option of `gpt2 generate` plays a part.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from gpt2.cli import arguments
from gpt2.cli.terminal import Terminal, columns, pad, piece
from gpt2.protocols import LanguageModel, NextToken

BAR = 30  # columns for a probability of 1


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text to continue; stdin when absent")
    parser.add_argument(
        "-n", "--top", type=int, default=10, metavar="N", help="how many tokens (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per token")
    arguments.add_model_arguments(parser)
    arguments.add_adapter_argument(parser)


def run(args: Namespace) -> int:
    prompt = arguments.read_text(args.prompt, is_prompt=True)
    model = arguments.load_model(args)
    found = model.next_tokens(prompt, args.top, **arguments.adapter_options(model, args))
    if args.json:
        _write_json(found)
    else:
        _write_table(model, found)
    return 0


def _write_table(model: LanguageModel, found: Sequence[NextToken]) -> None:
    terminal = Terminal(sys.stdout)
    pieces = [piece(model.tokenizer.token_bytes(token.id)) for token in found]
    width = max([columns(p) for p in pieces], default=0)
    print(terminal.paint(f"{'probability':>11}  {'id':>6}  {pad('token', width)}", "dim"))
    for token, text in zip(found, pieces, strict=True):
        bar = terminal.paint(terminal.bar(token.probability, BAR), "green")
        print(f"{token.probability:>10.2%}   {token.id:>6}  {pad(text, width)}  {bar}".rstrip())
    rest = 1.0 - sum(token.probability for token in found)
    print(terminal.paint(f"{max(rest, 0.0):>10.2%}   all other tokens", "dim"))


def _write_json(found: Sequence[NextToken]) -> None:
    import json
    from dataclasses import asdict

    for token in found:
        print(json.dumps(asdict(token)))
