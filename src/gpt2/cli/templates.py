"""Show the prompt templates, or compare them by how probable they make good replies.

    gpt2 templates
    gpt2 templates --show chatml
    gpt2 templates --compare examples.jsonl --use dialogue --use chatml@1 --use tavern.toml

A line of the examples is a JSON array of [role, text] pairs, the last of which is the reply that one wants:
[["user", "Is there land in sight?"], ["assistant", "Not yet, sir."]]
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.cli import arguments
from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    from gpt2.decoding import Message


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--show", metavar="NAME|FILE", help="what a template writes, as TOML-like fields")
    parser.add_argument("--compare", metavar="FILE", help="examples to compare on, JSON lines; - is stdin")
    parser.add_argument(
        "--use",
        action="append",
        metavar="NAME|FILE",
        help="a template to compare, the first of them with the others; may be given several times (default: "
        "all built-in ones)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per template")
    arguments.add_model_arguments(parser)


def run(args: Namespace) -> int:
    from gpt2.decoding import TEMPLATES, as_template

    if args.compare is not None:
        return _compare(args)
    for template in [as_template(args.show)] if args.show else TEMPLATES:
        if args.json:
            print(json.dumps(template.as_dict()))
        elif args.show:
            for name, value in template.as_dict().items():
                print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        else:
            print(f"{template.id:<12} {json.dumps(template.render([('user', 'Hello')]), ensure_ascii=False)}")
    return 0


def _compare(args: Namespace) -> int:
    from gpt2.decoding import TEMPLATES
    from gpt2.engine.compare import compare_templates

    examples = _examples(args.compare)
    result = compare_templates(arguments.load_model(args), examples, args.use or TEMPLATES)
    if not args.json:
        print(result.table())
        return 0
    for score in result.scores:
        record = {"template": score.template.id, "bits_per_byte": score.bits_per_byte}
        record |= {"wins": score.wins, "losses": score.losses, "p": score.p, "bits": list(score.bits)}
        print(json.dumps(record))
    return 0


def _examples(source: str) -> list[list[Message]]:
    """Raises InvalidRequest that names the line."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("the examples cannot be read", where=source, got=str(error)[:200]) from None
    return [
        _example(line, f"{source}, line {at}") for at, line in enumerate(text.splitlines(), 1) if line.strip()
    ]


def _example(line: str, where: str) -> list[Message]:
    try:
        messages = [(role, text) for role, text in json.loads(line)]
    except (ValueError, TypeError, RecursionError):
        messages = []
    if not messages or not all(isinstance(part, str) for message in messages for part in message):
        raise InvalidRequest(
            "this is no example", where=where, expected='[["user", "..."], ["assistant", "..."]]'
        )
    return messages
