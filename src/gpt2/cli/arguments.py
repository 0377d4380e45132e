"""Arguments that several commands share: one spelling and one help text for each.

Sampling flags are made from `gpt2.decoding.option_specs()`, so a new field of SamplingParams is a flag at
once.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any, NoReturn

from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    from gpt2.decoding import OptionSpec, SamplingParams
    from gpt2.engine import LanguageModel
    from gpt2.tokenizer import Tokenizer


DEFAULT_PRESET = "story"
"""What a newcomer gets who only gives a prompt: untruncated sampling at temperature 1 reads badly."""

_WITH_PRESET = {"min_length", "min_new_tokens"}
"""Rules that say nothing of how tokens are chosen, so that the default preset stays."""


class Parser(ArgumentParser):
    """argparse that answers an unknown flag with the nearest known one."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}{self._advice(unknown[0])}")
        return parsed

    def _advice(self, flag: str) -> str:
        if not flag.startswith("-"):
            return "; a prompt of several words needs quotes"
        from difflib import get_close_matches

        near = get_close_matches(flag.partition("=")[0], self._option_string_actions, n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n  try: {self.prog} --help\n")


def new_parser(prog: str, text: str) -> Parser:
    """A parser whose help shows `text` (the docstring of the command) as it is written."""
    return Parser(
        prog=prog, description=text.strip(), formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_model_arguments(parser: ArgumentParser) -> None:
    """Which model, and how it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        metavar="DIR|ID",
        help="a model directory, or a name such as openai-community/gpt2; "
        "the small bundled model when absent",
    )
    group.add_argument(
        "--weights",
        choices=("auto", "float32", "bfloat16", "int8", "int4"),
        default="auto",
        help="how the weights are held in memory; auto: as the file has them",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads to compute with; all cores when absent"
    )
    group.add_argument(
        "--isa",
        metavar="NAME",
        help="instruction set: generic, avx2, avx512, avx512bf16, amx, neon; absent: the fastest proven one",
    )


def add_adapter_argument(parser: ArgumentParser) -> None:
    """What changes the model, where a command's calls take an adapter."""
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="a LoRA or DoRA adapter as PEFT saves it, which changes the model for this command",
    )


def adapter_options(model: LanguageModel, args: Namespace) -> dict[str, Any]:
    """The keyword arguments of a call with the adapter that was asked for, which is loaded; none without."""
    return {} if args.adapter is None else {"adapter": model.load_adapter(args.adapter).name}


def load_model(args: Namespace) -> LanguageModel:
    """The model that the arguments of add_model_arguments ask for."""
    import gpt2

    return gpt2.load(args.model, weights=args.weights, threads=args.threads, isa=args.isa)


def read_text(text: str | None, *, is_prompt: bool) -> str:
    """The text argument, or stdin where there is none.

    A prompt loses one newline at the end of stdin, because `echo` adds it and nobody means it; a text to be
    measured is taken to the byte. A terminal as stdin is an empty text: nobody waits for a prompt that is not
    announced. Raises InvalidRequest for bytes that are not UTF-8, naming the first.
    """
    if text is not None:
        return _utf8(os.fsencode(text), "the argument")
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    text = _utf8(sys.stdin.buffer.read(), "stdin")
    return text.removesuffix("\n").removesuffix("\r") if is_prompt else text


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "the text is not UTF-8",
            where=where,
            got=f"byte 0x{raw[error.start]:02x} at offset {error.start} ({error.reason})",
            expected="UTF-8",
            hint="iconv -f LATIN1 -t UTF-8, or the encoding that the text is in",
        ) from None


def add_sampling_arguments(
    parser: ArgumentParser, *, default_preset: str = DEFAULT_PRESET, **defaults: object
) -> None:
    """A flag for every field of SamplingParams, and --preset. `n` is the command's own --num. `defaults`: of
    options that the command sets otherwise, for the help."""
    from dataclasses import replace

    from gpt2.decoding import PRESETS, option_specs

    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="a named set of the options below; what you add wins "
        f"(default: {default_preset}, unless you say how tokens are chosen)",
    )
    for spec in option_specs():
        if spec.name != "n":
            shown = replace(spec, default=defaults.get(spec.name, spec.default))
            group.add_argument(f"--{spec.name.replace('_', '-')}", **_flag(shown))


def _flag(spec: OptionSpec) -> dict[str, Any]:
    """What argparse is told of an option. What is not given stays absent, so that a preset shows through."""
    text = spec.help[0].lower() + spec.help[1:].rstrip(".").replace("%", "%%")
    flag: dict[str, Any] = {"dest": spec.name, "default": SUPPRESS, "help": text}
    if spec.type is bool:
        return flag | {"action": "store_true"}
    if spec.json:
        return flag | {"type": _json, "metavar": "JSON", "help": f"{text}; {spec.range}"}
    flag |= {"type": spec.type}
    if spec.choices:
        flag |= {"choices": spec.choices}
    else:
        flag |= {"metavar": {int: "N", float: "X", str: "TEXT"}[spec.type]}
    if spec.multiple:
        return flag | {"action": "append", "help": f"{text}; may be given several times"}
    return flag if spec.default is None else flag | {"help": f"{text} (default: {spec.default})"}


def _json(text: str) -> Any:
    """The value of a flag that takes a list or a mapping."""
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON ({error}): {text[:60]}") from None


def sampling_params(args: Namespace, *, n: int, default_preset: str = DEFAULT_PRESET) -> SamplingParams:
    """The options that were given, on top of the preset. Raises InvalidRequest for impossible values."""
    from gpt2.decoding import RULE_ORDER, SamplingParams, option_specs

    given = {spec.name: getattr(args, spec.name) for spec in option_specs() if hasattr(args, spec.name)}
    preset = args.preset or (None if given.keys() & set(RULE_ORDER) - _WITH_PRESET else default_preset)
    return SamplingParams.from_options(preset, **given, n=n)


def load_tokenizer(model: str | None) -> Tokenizer:
    """The vocabulary of a model, without its weights."""
    from gpt2.tokenizer import Tokenizer
    from gpt2.weights.hub import resolve

    return Tokenizer.load(resolve(model))
