"""Tune a model on your own text: held-out loss watched, stopped before it overfits, measured afterwards.

    gpt2 finetune notes.txt --output tuned
    gpt2 finetune letters/ --output tuned -m openai-community/gpt2 --epochs 5
    gpt2 finetune notes.txt --output tuned --resume

Needs PyTorch: pip install "gpt2[train]". Before the start it says what the run will take, and refuses what
the machine cannot do. The output is a model directory for gpt2.load and for transformers, with card.json: the
perplexity on held-out text and on other text before and after, and how much of the training text it writes
word for word. Its run/ has the log, the curve (loss.svg) and the checkpoints; a run that was killed goes on
with --resume and ends with the same bits.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from gpt2.cli.training import add_setting_arguments, given_settings, train


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="FILE", nargs="+", help="text, JSONL, CSV, folders, or one folder of gpt2 prepare"
    )
    add_setting_arguments(parser, without=("data", "n_layer", "n_head", "n_embd", "n_positions"))


def run(args: Namespace) -> int:
    from gpt2.train.settings import Settings

    given = given_settings(args)
    return train(Settings.of(given.pop("recipe", "finetune"), **given), args)
