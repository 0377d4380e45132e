"""Turn files of text into tokens that a model can be trained on.

    gpt2 prepare notes.txt --output prepared
    gpt2 prepare corpus/ --output prepared -m openai-community/gpt2 --near-duplicates 0.8
    gpt2 prepare pairs.csv --output prepared --prompt-column question --completion-column answer
    gpt2 prepare dump.txt.gz --output prepared --separator '<|endoftext|>' --decontaminate test.jsonl

Reads text, JSONL, CSV, TSV and Parquet, also compressed, and folders of them, on all cores and in bounded
memory. Interrupted, or killed, the same command goes on where it stopped. In the new folder data.md says what
is there and what was left out.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.train.data import Progress, Tokens


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a file, or a folder of files")
    parser.add_argument("--output", metavar="DIR", required=True, help="the folder to write")
    parser.add_argument("-m", "--model", metavar="DIR|ID", help="the model whose vocabulary is used")
    _reading(parser)
    _choosing(parser)
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=1 << 28,
        metavar="N",
        help="tokens of a file at most (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="workers; all cores when absent")
    parser.add_argument("--json", action="store_true", help="print what was made as one JSON object")


def _reading(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--kind",
        choices=("text", "jsonl", "csv", "tsv", "parquet"),
        help="read every file as this; absent: as its name and content say",
    )
    group.add_argument(
        "--text-column", metavar="NAME", help='the column or field with the text (default: "text")'
    )
    group.add_argument("--prompt-column", metavar="NAME", help="the column that is context and not learnt")
    group.add_argument(
        "--completion-column", metavar="NAME", help="the column that is learnt after the prompt"
    )
    group.add_argument(
        "--separator",
        metavar="TEXT",
        help="what stands between the documents of a text file; absent: a file is one document",
    )
    group.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="what else in a folder is text, as in '*.py'",
    )


def _choosing(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("choosing")
    group.add_argument(
        "--validation",
        type=float,
        default=0.05,
        metavar="X",
        help="the share of the documents to hold back and measure on (default: %(default)s)",
    )
    group.add_argument(
        "--validation-source",
        action="append",
        default=[],
        metavar="PATH",
        help="a file or folder that is held back as a whole, in the place of a share (repeatable)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="which documents are held back (default: %(default)s)",
    )
    group.add_argument("--keep-duplicates", action="store_true", help="keep texts that were there before")
    group.add_argument(
        "--near-duplicates",
        type=float,
        metavar="X",
        help="leave out a text that has this share of its five-word sequences in common with one before "
        "(0.8 is usual)",
    )
    group.add_argument(
        "--decontaminate",
        action="append",
        default=[],
        metavar="FILE",
        help="leave out texts that have words in a row in common with this evaluation (repeatable)",
    )
    group.add_argument(
        "--ngram", type=int, default=13, metavar="N", help="how many words in a row (default: %(default)s)"
    )


def run(args: Namespace) -> int:
    from gpt2.cli import arguments
    from gpt2.train.data import Preparation, prepare

    settings = Preparation(
        validation=args.validation,
        seed=args.seed,
        text_column=args.text_column,
        prompt_column=args.prompt_column,
        completion_column=args.completion_column,
        separator=args.separator,
        kind=args.kind,
        include=tuple(args.include),
        exact_duplicates=not args.keep_duplicates,
        near_duplicates=args.near_duplicates,
        decontaminate=tuple(args.decontaminate),
        ngram=args.ngram,
        shard_tokens=args.shard_tokens,
    )
    bar = ProgressLine()
    try:
        tokens = prepare(
            args.sources,
            arguments.load_tokenizer(args.model),
            args.output,
            settings,
            validation_sources=args.validation_source,
            threads=args.threads,
            progress=bar,
        )
    finally:
        bar.clear()
    if args.json:
        import json

        print(
            json.dumps({name: tokens.index[name] for name in ("splits", "left_out", "sources", "tokenizer")})
        )
    else:
        print("\n".join([str(tokens.folder), *summary(tokens)]))
    return 0


def summary(tokens: Tokens) -> list[str]:
    """What was made, in lines for people."""
    found = [
        f"  {name:<12}{split['tokens']:>15,} tokens in {split['documents']:,} documents"
        for name, split in tokens.index["splits"].items()
    ]
    left = [
        f"{why['documents']:,} {name}" for name, why in tokens.index["left_out"].items() if why["documents"]
    ]
    return [*found, f"  left out    {', '.join(left)}; see left-out.jsonl"] if left else found


class ProgressLine:
    """One line on stderr that is written anew, four times a second at most; notes stay. Silent where nobody
    looks."""

    def __init__(self) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._began = time.monotonic()
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.note:
            self.clear()
            print(progress.note, file=sys.stderr)
        now = time.monotonic()
        if not self._shown or now - self._last < 0.25:
            return
        self._last = now
        print(f"\r\x1b[K{self.line(progress, now - self._began)}", end="", file=sys.stderr, flush=True)

    @staticmethod
    def line(progress: Progress, seconds: float) -> str:
        """What is shown after so many seconds."""
        if progress.stage == "choose":
            return "choosing what stays"
        share = progress.done / max(progress.total, 1)
        if progress.stage == "write":
            return f"writing {share:4.0%}"
        rate = progress.done / max(seconds, 1e-9)
        left = (progress.total - progress.done) / max(rate, 1e-9)
        return (
            f"tokenising {share:4.0%}  {progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB  "
            f"{rate / 1e6:,.0f} MB/s  {progress.tokens:,} tokens  {left:,.0f} s left"
        )

    def clear(self) -> None:
        """Take the line away."""
        if self._shown and self._last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
