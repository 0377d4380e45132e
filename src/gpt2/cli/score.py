"""Show how surprising each token of a text is: the higher its bits, the less the model expected it.

    gpt2 score "The cat sat on the mat."
    gpt2 score --json --stride 256 < chapter.txt

With colour the text is shown as it is, each token on the colour of its surprise; without, as a table. One bit
is a coin toss; 10 bits are one in a thousand. The text is taken to the byte, a newline at its end included.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace

from gpt2.cli import arguments
from gpt2.cli.terminal import Terminal, piece
from gpt2.protocols import LanguageModel, Score

# Upper limits of the surprise in bits, and a background among the terminal's 256 colours: calm to alarming.
SCALE = ((1.0, 194), (3.0, 229), (6.0, 222), (10.0, 215), (math.inf, 203))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", help="text to score; stdin when absent")
    parser.add_argument("--json", action="store_true", help="one JSON object with every token")
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="score a text longer than the window, in windows that move by N tokens",
    )
    arguments.add_model_arguments(parser)
    arguments.add_adapter_argument(parser)


def run(args: Namespace) -> int:
    text = arguments.read_text(args.text, is_prompt=False)
    model = arguments.load_model(args)
    score = model.score(text, stride=args.stride, **arguments.adapter_options(model, args))
    if args.json:
        _write_json(score)
        return 0
    terminal = Terminal(sys.stdout)
    if terminal.colour:
        _write_coloured(terminal, text, model, score)
    else:
        _write_table(model, score)
    print(summary(score))
    return 0


def bits(logprob: float) -> float:
    """Surprise in bits: 1 for a probability of 1/2, 10 for one in a thousand."""
    return -logprob / math.log(2) + 0.0  # + 0.0: no "-0.0" for a certain token


def summary(score: Score) -> str:
    """The totals in one line."""
    return (
        f"{len(score.tokens)} tokens, {bits(score.total):.1f} bits, perplexity {score.perplexity:.2f}, "
        f"{score.bits_per_byte:.3f} bits per byte"
    )


def _background(surprise: float) -> int:
    return next(colour for limit, colour in SCALE if surprise <= limit or limit == math.inf)


def _write_coloured(terminal: Terminal, text: str, model: LanguageModel, score: Score) -> None:
    """The text itself. A character that spans tokens takes the colour of the token that completes it."""
    decoder = model.tokenizer.stream()
    last = len(score.tokens) - 1
    for i, (token, logprob) in enumerate(zip(score.tokens, score.logprobs, strict=True)):
        shown = decoder.push(token) + (decoder.finish() if i == last else "")
        colour = _background(bits(logprob))
        lines = terminal.safe(shown).split("\n")  # a background must not run to the end of the line
        print("\n".join(terminal.highlight(line, colour) if line else "" for line in lines), end="")
    print("\n")
    limits = ["<= 1", "<= 3", "<= 6", "<= 10", "> 10"]
    legend = " ".join(
        terminal.highlight(f" {name} ", colour) for name, (_, colour) in zip(limits, SCALE, strict=True)
    )
    print(f"bits: {legend}")


def _write_table(model: LanguageModel, score: Score) -> None:
    print("    bits      id  token")
    for token, logprob in zip(score.tokens, score.logprobs, strict=True):
        print(f"{bits(logprob):>8.2f}  {token:>6}  {piece(model.tokenizer.token_bytes(token))}")


def _write_json(score: Score) -> None:
    import json

    tokens = [
        {"id": token, "text": text, "logprob": logprob, "bits": bits(logprob)}
        for token, text, logprob in zip(score.tokens, score.texts, score.logprobs, strict=True)
    ]
    totals = {
        "total_logprob": score.total,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }
    print(json.dumps(totals | {"tokens": tokens}))
