"""Download a model from the Hugging Face hub, so that it can be used without a network.

    gpt2 pull openai-community/gpt2
    gpt2 pull --revision main distilgpt2

It lands in the hub's cache (HF_HOME), whole or not at all, and -m finds it there by the same name. What is
there already is not downloaded again. Prints the directory.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the model's name on the hub, such as openai-community/gpt2")
    parser.add_argument(
        "--revision", metavar="NAME", help="a branch, tag or commit; the main branch when absent"
    )


def run(args: Namespace) -> int:
    from gpt2.weights import hub

    shows_progress = sys.stderr is not None and sys.stderr.isatty()
    try:
        folder = hub.pull(args.id, args.revision, progress() if shows_progress else None)
    finally:
        if shows_progress:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(folder)
    return 0


def progress() -> Callable[[int, int], None]:
    """What hub.pull calls with (bytes done, bytes known to be needed): one line that overwrites itself."""
    shown = ""

    def show(done: int, total: int) -> None:
        nonlocal shown
        line = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        if line != shown:  # it is called for every few kilobytes
            shown = line
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    return show
