"""One row of the table of options: what an option is called, which values it takes, what it means.

Knows no option; the rows are in rules.py (the sampler's) and table.py (the rest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpt2.decoding.options.values import shown
from gpt2.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """What a command line, an HTTP schema or a page of documentation needs to know about one option."""

    name: str
    type: type
    """Of one value: int, float, str or bool; of what `json` holds, if that is set."""
    default: Any
    help: str
    """One sentence."""
    range: str
    """The values that are accepted, in words."""
    choices: tuple[str, ...] | None = None
    """The only values, where they are few."""
    multiple: bool = False
    """May be given several times; the field is a tuple."""
    json: bool = False
    """A list or a mapping: given as JSON on a command line; the field is a tuple, or None."""
    paper: str | None = None
    """Where the method was published."""
    formula: str | None = None
    """What it does to the scores, where a sentence is not enough."""
    example: str = ""
    """Options, as a call would have them, that show it at work; the tests run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row: the option and the check of its value. `accept` turns a value into the one that is stored, or
    raises ValueError or TypeError; `hint` is what the error then advises."""

    spec: OptionSpec
    accept: Callable[[Any], Any]
    hint: str | None = None

    def checked(self, value: Any) -> Any:
        likely = None
        try:
            return self.accept(value)
        except UnicodeEncodeError:
            likely = "it has a lone surrogate (half of a UTF-16 pair), which is no character"
        except (TypeError, ValueError, OverflowError):
            pass
        raise InvalidRequest(
            self.spec.name, got=shown(value), expected=self.spec.range, likely=likely, hint=self.hint
        )


def row(
    name: str,
    type_: type,
    default: Any,
    accept: Callable[[Any], Any],
    range_: str,
    help_: str,
    *,
    paper: str | None = None,
    hint: str | None = None,
    choices: tuple[str, ...] | None = None,
    multiple: bool = False,
    json: bool = False,
    formula: str | None = None,
    example: str,
) -> Rule:
    spec = OptionSpec(
        name=name,
        type=type_,
        default=default,
        help=help_,
        range=range_,
        choices=choices,
        multiple=multiple,
        json=json,
        paper=paper,
        formula=formula,
        example=example,
    )
    return Rule(spec=spec, accept=accept, hint=hint)
