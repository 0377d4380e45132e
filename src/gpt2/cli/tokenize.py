"""Turn text into tokens, or tokens into text.

    gpt2 tokenize "Hello, world"
    gpt2 tokenize --json < notes.txt
    gpt2 tokenize --decode 15496 11 995

Offsets are positions in the text, in characters. The text is taken to the byte: a newline at the end of stdin
is a token like any other. Without -m the vocabulary is that of the bundled model.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2.cli import arguments
from gpt2.cli.terminal import Terminal, piece
from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "text", nargs="*", help="text to tokenize, or with --decode the ids; stdin when absent"
    )
    parser.add_argument("-d", "--decode", action="store_true", help="read ids, write their text")
    parser.add_argument(
        "--allow-special",
        action="store_true",
        help="read <|endoftext|> in the text as the end-of-text token, not as plain text",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--ids", action="store_true", help="only the ids, on one line")
    shape.add_argument("--count", action="store_true", help="only the number of tokens")
    shape.add_argument("--json", action="store_true", help="one JSON object with ids, pieces and offsets")
    parser.add_argument("-m", "--model", metavar="DIR|ID", help="the model whose vocabulary is used")


def run(args: Namespace) -> int:
    tokenizer = arguments.load_tokenizer(args.model)
    text = arguments.read_text(" ".join(args.text) if args.text else None, is_prompt=False)
    if args.decode:
        # Bytes, not text: the ids of half a character give just that half.
        sys.stdout.buffer.write(tokenizer.decode_bytes(parse_ids(text)))
        if sys.stdout.isatty():
            print()
        return 0
    allowed = ("<|endoftext|>",) if args.allow_special else ()
    ids, spans = tokenizer.encode_with_offsets(text, allowed_special=allowed)
    if args.count:
        print(len(ids))
    elif args.ids:
        print(*ids)
    else:
        _write(tokenizer, ids, spans, as_json=args.json)
    return 0


def parse_ids(text: str) -> list[int]:
    """The ids in `text`, separated by spaces, commas or brackets: what --ids and --json print can be read
    back."""
    for separator in ",[]":
        text = text.replace(separator, " ")
    ids = []
    for word in text.split():
        if not (word.isascii() and word.isdigit()):
            raise InvalidRequest(
                "not a token id",
                got=repr(word[:40]),
                expected="whole numbers such as 15496 11 995",
                hint="without --decode, to tokenize text",
            )
        ids.append(int(word))
    return ids


def _write(tokenizer: Tokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]], as_json: bool) -> None:
    if as_json:
        import json

        pieces = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]
        print(json.dumps({"ids": list(ids), "pieces": pieces, "offsets": [list(span) for span in spans]}))
        return
    terminal = Terminal(sys.stdout)
    print(terminal.paint("   offset      id  token", "dim"))
    for token, (start, stop) in zip(ids, spans, strict=True):
        print(f"{f'{start}-{stop}':>9}  {token:>6}  {piece(tokenizer.token_bytes(token))}")
    print(f"{len(ids)} tokens")
