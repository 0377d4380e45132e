"""List the models on this machine: the bundled one and those in the hub's cache.

    gpt2 list
    gpt2 list --json

Each can be used by its name: gpt2 generate -m NAME. No network call is made.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from gpt2.cli.terminal import Terminal, columns, pad


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object per model")


def run(args: Namespace) -> int:
    from gpt2.weights import hub

    models = hub.list_models()
    if args.json:
        import json

        for model in models:
            record = {
                "id": model.id,
                "revision": model.revision,
                "bytes": model.size,
                "path": str(model.path),
            }
            print(json.dumps(record))
        return 0
    terminal = Terminal(sys.stdout)
    width = max((columns(model.id) for model in models), default=0)
    for model in models:
        print(
            f"{pad(model.id, width)}  {model.size / 1e6:>9,.1f} MB  {terminal.paint(str(model.path), 'dim')}"
        )
    return 0
