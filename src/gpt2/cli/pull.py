"""Download a model from the Hugging Face hub, so that it can be used without a network.

    gpt2 pull openai-community/gpt2
    gpt2 pull --revision main openai-community/gpt2

It lands in the hub's cache (HF_HOME), whole or not at all, and -m finds it there by the same name. What is
there already is not downloaded again. Prints the directory.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the model's name on the hub, such as openai-community/gpt2")
    parser.add_argument(
        "--revision", metavar="NAME", help="a branch, tag or commit; the main branch when absent"
    )


def run(args: Namespace) -> int:
    from gpt2.weights import hub

    print(hub.pull(args.id, revision=args.revision))
    return 0
