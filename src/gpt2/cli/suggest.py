"""Show how a text may go on that ends anywhere, even within a word.

    gpt2 suggest "The little gir"
    gpt2 suggest --num 5 --json "She opened the lett"

Each line is one suggestion, best first: its log-probability, and what follows the text. An editor that asks
again and again uses `lm.suggest` in one process: there the text that was asked for before costs nothing.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from gpt2.cli import arguments
from gpt2.cli.terminal import Terminal, piece


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text to complete; stdin when absent")
    parser.add_argument(
        "-n", "--num", type=int, default=3, metavar="N", help="how many suggestions (default: 3)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=5, metavar="N", help="tokens of each, at most (default: 5)"
    )
    parser.add_argument(
        "--truncate",
        choices=("left", "right", "middle"),
        help="where to cut a text that does not fit the context window",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per suggestion")
    arguments.add_model_arguments(parser)
    arguments.add_adapter_argument(parser)


def run(args: Namespace) -> int:
    prompt = arguments.read_text(args.prompt, is_prompt=True)
    model = arguments.load_model(args)
    found = model.suggest(
        prompt,
        args.num,
        max_new_tokens=args.max_new_tokens,
        truncate=args.truncate,
        **arguments.adapter_options(model, args),
    )
    if args.json:
        import json
        from dataclasses import asdict

        for one in found:
            print(json.dumps(asdict(one)))
        return 0
    terminal = Terminal(sys.stdout)
    for one in found:
        print(f"{terminal.paint(f'{one.logprob:8.2f}', 'dim')}  {piece(one.text.encode())}")
    return 0
