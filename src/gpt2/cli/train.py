"""Train as a recipe says: from nothing, or from a model; on one machine or, through torchrun, on many.

    gpt2 train recipe.toml
    gpt2 train recipe.toml --lr 3e-4 --max-steps 1000 --output other
    gpt2 train --recipe pretrain --data corpus/ --output small --n-layer 6 --n-embd 384 --n-head 6
    torchrun --nproc-per-node 2 -m gpt2.train recipe.toml

Needs PyTorch: pip install "gpt2[train]". A recipe is a TOML file whose keys are the flags below with `_` for
`-`; a flag wins over the file. Every setting that is in effect is printed and kept in
OUTPUT/run/settings.toml, which is itself a recipe. What `gpt2 finetune --help` says of plans, cards, kills
and --resume holds here.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from gpt2.cli.training import add_setting_arguments, given_settings, train


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="RECIPE", nargs="?", help="a TOML file of settings")
    add_setting_arguments(parser)


def run(args: Namespace) -> int:
    from gpt2.train.settings import Settings, read_toml

    given = (read_toml(args.file) if args.file else {}) | given_settings(args)
    return train(Settings.of(given.pop("recipe", "finetune"), **given), args)
