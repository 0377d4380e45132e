"""Write a smaller model: the weights rounded to int8 or int4, measured, and ready to be mapped.

    gpt2 quantize openai-community/gpt2 --weights int8
    gpt2 quantize path/to/model --weights int4 --group 64 --text held-out.txt --output model-int4
    gpt2 generate -m model-int4 "Once upon a time"

The new directory has everything that the model needs, and card.json: the hashes of the source and of the
result, the scheme, the sizes, and how the result differs from the source. With --text that is the bits per
byte of both on a text that the model was not trained on; without, how far the probabilities are apart on what
the source writes itself. An output that exists is never overwritten, and an interrupted command leaves
nothing.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from gpt2.errors import InvalidRequest


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="DIR|ID",
        help="a model directory, or a name such as openai-community/gpt2 or demo",
    )
    parser.add_argument(
        "--weights", choices=("int8", "int4"), required=True, help="how to round the matrices"
    )
    parser.add_argument(
        "--group",
        type=int,
        metavar="N",
        help="int4: how many weights share a multiplier, 32, 64 or 128 (default: 32); fewer are more exact",
    )
    parser.add_argument(
        "--zero-point", action="store_true", help="levels need not lie around 0: more exact, a little larger"
    )
    parser.add_argument(
        "--no-equalise",
        action="store_true",
        help="round as it is, without moving magnitude from outlier channels into the weights first",
    )
    parser.add_argument(
        "--output", metavar="OUT", help="the new directory (default: NAME-int8 or NAME-int4, here)"
    )
    parser.add_argument("--text", metavar="FILE", help="held-out text to measure both models on")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads to measure with; all cores when absent"
    )
    parser.add_argument("--json", action="store_true", help="print the card")


def run(args: Namespace) -> int:
    from gpt2.cards import quantise_directory
    from gpt2.weights.scheme import Scheme

    scheme = Scheme(
        method=args.weights,
        group=args.group,
        symmetric=not args.zero_point,
        equalised=not args.no_equalise,
    )
    output = args.output or f"{default_name(args.model)}-{args.weights}"
    text = read_file(args.text) if args.text else None
    made = quantise_directory(
        None if args.model == "demo" else args.model,
        output,
        scheme,
        text=text,
        threads=args.threads,
        progress=lambda step: print(f"{step} ...", file=sys.stderr, flush=True),
    )
    if args.json:
        print(json.dumps(made.card))
    else:
        print("\n".join([str(made.path), *summary(made.card)]))
    return 0


def default_name(model: str) -> str:
    """The last part of a path or of a hub id."""
    return Path(model).resolve().name if model in (".", "..") else Path(model).name or "model"


def read_file(path: str) -> str:
    """The whole text. Raises InvalidRequest where it cannot be read, or is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidRequest("the text cannot be read", where=path, got=error.strerror) from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "the text is not UTF-8", where=path, got=f"byte {error.object[error.start]:#04x} at {error.start}"
        ) from None


def summary(card: dict[str, Any]) -> list[str]:
    """What the card says, in lines for people."""
    from gpt2.weights.scheme import Scheme

    sizes, quality = card["weight_bytes"], card["quality"]
    lines = [
        f"  scheme      {Scheme.from_dict(card['quantization'])}",
        f"  weights     {sizes['model'] / 1e6:,.1f} MB, from {sizes['source'] / 1e6:,.1f} MB "
        f"of {quality['source_weights']}",
    ]
    if (text := quality.get("text")) is not None:
        bits = text["bits_per_byte"]
        lines.append(
            f"  held-out    {bits['model']:.4f} bits per byte, from {bits['source']:.4f}: "
            f"{text['increase_percent']:+.3f} %"
        )
    near = quality["on_samples_of_the_source"]
    lines.append(
        f"  divergence  {near['mean_kl_bits']:.5f} bits per token on {near['tokens']:,} tokens of the "
        f"source; same top token in {near['same_top_token']:.1%}"
    )
    return lines
