"""What `gpt2 train` and `gpt2 finetune` share: a flag for every setting, lines of progress, the run."""

from __future__ import annotations

import sys
import time
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from gpt2.errors import EngineError

if TYPE_CHECKING:
    from gpt2.train.settings import Facts, Settings

METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_setting_arguments(parser: ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """A flag for every setting but `without`; what is not given stays absent."""
    from gpt2.train.settings import Settings, setting_facts

    defaults = Settings()
    group = parser.add_argument_group("settings")
    for name, facts in setting_facts().items():
        if name not in without:
            flags = [f"--{name.replace('_', '-')}"]
            if name == "model":
                flags.insert(0, "-m")
            group.add_argument(*flags, **_flag(name, facts, getattr(defaults, name)))
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that the output directory has"
    )
    parser.add_argument("--plan", action="store_true", help="say what the run would take, and train nothing")
    parser.add_argument("--json", action="store_true", help="print the card of the model")


def _flag(name: str, facts: Facts, default: Any) -> dict[str, Any]:
    text = facts.help.replace("%", "%%")
    flag: dict[str, Any] = {"dest": name, "default": SUPPRESS}
    if facts.type is bool:
        return flag | {"action": BooleanOptionalAction, "help": text}
    if default not in (None, (), ("",)) and not facts.many:
        text += f" (default: {default:g})" if facts.type is float else f" (default: {default})"
    flag |= {"type": facts.type, "help": text}
    if facts.many:
        flag["nargs"] = "+"
    return flag | ({"choices": facts.choices} if facts.choices else {"metavar": METAVARS[facts.type]})


def given_settings(args: Namespace) -> dict[str, Any]:
    """The settings that the command line has."""
    from gpt2.train.settings import setting_facts

    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(args).items()
        if name in setting_facts()
    }


def train(settings: Settings, args: Namespace) -> int:
    """Run, tell, and print where the model is."""
    try:
        from gpt2.train.run import run
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EngineError(
            "training needs PyTorch, which is not in the base", hint='pip install "gpt2[train]"'
        ) from None
    lines = Lines()
    result = run(settings, resume=args.resume, only_plan=args.plan, say=lines.say, progress=lines.progress)
    if result.card is not None:
        import json

        print(json.dumps(result.card) if args.json else result.output)
    return 0


class Lines:
    """Lines on stderr: one that is written over in a terminal, one every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr is not None and sys.stderr.isatty()
        self.open = False
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        print(("\n" if self.open else "") + text, file=sys.stderr, flush=True)
        self.open = False

    def progress(self, text: str) -> None:
        now = time.monotonic()
        if now - self.last < (0.1 if self.live else 10):
            return
        self.last = now
        if self.live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self.open = True
        else:
            print(text, file=sys.stderr, flush=True)
