"""The table of decoding options: one row per field of SamplingParams, for flags, checks and docs.

It knows what an option is called, which values it takes and what it means, not how a token is chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from gpt2.decoding import constraints
from gpt2.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """What a command line, an HTTP schema or a page of documentation needs to know about one option."""

    name: str
    type: type
    """Of one value: int, float, str or bool."""
    default: Any
    help: str
    """One sentence."""
    range: str
    """The values that are accepted, in words."""
    choices: tuple[str, ...] | None = None
    """The only values, where they are few."""
    multiple: bool = False
    """May be given several times; the field is a tuple."""
    paper: str | None = None
    """Where the method was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row: the option and the check of its value. `accept` turns a value into the one that is stored, or
    raises ValueError or TypeError; `hint` is what the error then advises."""

    spec: OptionSpec
    accept: Callable[[Any], Any]
    hint: str | None = None

    def checked(self, value: Any) -> Any:
        try:
            return self.accept(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidRequest(
                self.spec.name, got=shown(value), expected=self.spec.range, hint=self.hint
            ) from None


def shown(value: Any) -> str:
    """A value for an error message: short, and never a whole prompt."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[Any], float]:
    """Accepts a finite number in [low, high], or (low, high] if `open_low`."""

    def accept(value: Any) -> float:
        result = float(_not_text(value))
        if not math.isfinite(result) or not low <= result <= high or (open_low and result == low):
            raise ValueError
        return result

    return accept


def integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    """Accepts a whole number in [low, high]; 3.0 counts as one, 3.5 and True do not."""

    def accept(value: Any) -> int:
        result = int(_not_text(value))
        if result != value or result < low or (high is not None and result > high):
            raise ValueError
        return result

    return accept


def optional(accept: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else accept(value)


def one_of(*names: str) -> Callable[[Any], str]:
    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return accept


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def strings(value: Any) -> tuple[str, ...]:
    """Accepts one string or several; none may be empty, since that would stop before the first character."""
    items = (value,) if isinstance(value, str) else tuple(() if value is None else value)
    if not all(isinstance(item, str) and item for item in items):
        raise ValueError
    return items


def _some_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def schema(value: Any) -> str:
    """Accepts a JSON schema as an object, as JSON text, or as a class of pydantic's; kept is the text, with
    the keys in their order."""
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        if not isinstance(schema, Mapping):
            raise TypeError
        return json.dumps(dict(schema), ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError from None


def ids(value: Any) -> tuple[int, ...]:
    accept = integer(0, 2**31 - 1)
    items = value if isinstance(value, (tuple, list, set, frozenset)) else ([] if value is None else [value])
    return tuple(dict.fromkeys(accept(item) for item in items))


def id_sequence(value: Any) -> tuple[int, ...] | None:
    """Accepts ids in their order, or None; a text is read as numbers with commas."""
    if isinstance(value, str):
        value = [int(item) for item in value.split(",")]
    accept = integer(0, 2**31 - 1)
    return None if value is None else tuple(accept(item) for item in value)


def _early_stopping(value: Any) -> bool | str:
    value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if value != "never":
        return boolean(value)
    return "never"


def _dola_layers(value: Any) -> str | tuple[int, ...] | None:
    if value in (None, "low", "high"):
        return value  # type: ignore[no-any-return]
    layers = id_sequence(value)
    if not layers:
        raise ValueError
    return layers


def _not_text(value: Any) -> Any:
    if isinstance(value, (str, bytes, bool)):
        raise TypeError
    return value


def _row(
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
) -> Rule:
    spec = OptionSpec(
        name=name,
        type=type_,
        default=default,
        help=help_,
        range=range_,
        choices=choices,
        multiple=multiple,
        paper=paper,
    )
    return Rule(spec=spec, accept=accept, hint=hint)


# float32 is the arithmetic of the sampler: smaller or larger numbers would become 0 or infinity there.
_LEAST, _MOST = 1.18e-38, 3.4e38


def _temperature(value: Any) -> float:
    result = number(0.0, _MOST)(value)
    if 0.0 < result < _LEAST:
        raise ValueError
    return result


MAX_LOGPROBS: Final = 20
"""More than this per token is a question for LanguageModel.logits()."""

_ROWS = (
    _row(
        "max_new_tokens", int, 128, integer(0), "a whole number, 0 or more",
        "At most this many tokens are generated.",
    ),
    _row(
        "min_new_tokens", int, 0, integer(0), "a whole number, 0 or more",
        "The end-of-text token and the stop token ids cannot come before this many tokens.",
    ),
    _row(
        "temperature", float, 1.0, _temperature, "0, or a finite number above it",
        "Divides the logits: below 1 sharpens, above 1 flattens; 0 is greedy, ties to the lowest id.",
        hint="temperature=0 for greedy decoding, 0.7 to 1 for varied text",
    ),
    _row(
        "top_k", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "Keep the k most probable tokens, and those that tie with the k-th; 0 is off.",
        paper="arXiv:1805.04833",
    ),
    _row(
        "top_p", float, 1.0, number(0.0, 1.0, open_low=True), "a number in (0, 1]",
        "Keep the smallest set of tokens with this much probability (nucleus); 1 is off.",
        paper="arXiv:1904.09751", hint="for greedy decoding set temperature=0",
    ),
    _row(
        "min_p", float, 0.0, number(0.0, 1.0), "a number in [0, 1]",
        "Keep the tokens at least this fraction as probable as the most probable one; 0 is off.",
        paper="arXiv:2407.01082",
    ),
    _row(
        "repetition_penalty", float, 1.0, number(_LEAST, _MOST), "a finite number above 0",
        "Above 1 makes tokens less probable that the prompt or the text already has; 1 is off.",
        paper="arXiv:1909.05858", hint="1.1 to 1.3 is usual",
    ),
    _row(
        "no_repeat_ngram_size", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "No run of this many tokens occurs twice, the prompt included; 0 is off.",
        paper="arXiv:1705.04304",
    ),
    _row(
        "stop", str, (), strings, "strings, none of them empty",
        "Stop before the first of these strings; it is not part of the text.", multiple=True,
    ),
    _row(
        "stop_token_ids", int, (), ids, "token ids, whole numbers of 0 or more",
        "Stop at the first of these tokens; its text is not part of the text.", multiple=True,
    ),
    _row(
        "seed", int, None, optional(integer(0, 2**64 - 1)), "a whole number in [0, 2**64)",
        "The same seed gives the same text; without one it is chosen at random and reported.",
        paper="Salmon et al. 2011, doi:10.1145/2063384.2063405",
    ),
    _row(
        "logprobs", int, None, optional(integer(0, MAX_LOGPROBS)), f"a whole number in [0, {MAX_LOGPROBS}]",
        "Report the model's own log-probability of each token, and of this many most probable ones.",
        hint="LanguageModel.logits() gives all of them",
    ),
    _row(
        "n", int, 1, integer(1, 2**32 - 1), "a whole number, 1 or more",
        "How many alternatives to generate; the k-th is the same whatever n is.",
    ),
    _row(
        "num_return_sequences", int, None, optional(integer(1, 2**32 - 1)), "a whole number, 1 or more",
        "Another name of n.",
    ),
    _row(
        "best_of", int, None, optional(integer(1, 2**16)), "a whole number, 1 or more",
        "Draw this many alternatives and keep the n whose tokens are on average the most probable.",
    ),
    _row(
        "prompt_lookup_num_tokens", int, None, optional(integer(1, 64)), "a whole number in [1, 64]",
        "Guess up to this many tokens from what followed the last ones earlier in the text, and check them "
        "in one step: the same text, sooner where it repeats.",
        paper="Saxena 2023, Prompt Lookup Decoding", hint="prompt_lookup_num_tokens=8",
    ),
    _row(
        "max_matching_ngram_size", int, None, optional(integer(1, 64)), "a whole number in [1, 64]",
        "So many tokens are compared for prompt_lookup_num_tokens, or fewer where so many have not occurred; "
        "2 unless given.",
    ),
    _row(
        "do_sample", bool, None, optional(boolean), "true or false",
        "False is greedy, as temperature 0 is; beams draw only if it is true.",
    ),
    _row(
        "num_beams", int, 1, integer(1, 2**10), "a whole number in [1, 1024]",
        "Follow this many texts side by side and return the n with the best score; 1 is off.",
        paper="Lowerre 1976, The HARPY speech recognition system",
    ),
    _row(
        "num_beam_groups", int, 1, integer(1, 2**10), "a whole number that divides num_beams",
        "Split the beams into groups that are made to differ; 1 is off.", paper="arXiv:1610.02424",
    ),
    _row(
        "diversity_penalty", float, 0.0, number(0.0, _MOST), "a finite number, 0 or more",
        "What a group's token costs for each beam of the groups before that has just taken it.",
        paper="arXiv:1610.02424",
    ),
    _row(
        "length_penalty", float, 1.0, number(-100.0, 100.0), "a number in [-100, 100]",
        "A beam's score is its log-probability / length ** length_penalty: above 0 favours long texts.",
        paper="arXiv:1609.08144",
    ),
    _row(
        "early_stopping", str, False, _early_stopping, "true, false or never",
        "When beams end: true, at num_beams complete texts; false, when a better one is unlikely; never, "
        "when it is impossible.", choices=("true", "false", "never"),
    ),
    _row(
        "force_words_ids", str, (), constraints.words, "lists of token ids, or lists of such lists",
        "Words that must occur (beams only), each as its ids, or as several lists of which one will do.",
        multiple=True,
        paper="arXiv:1804.06609", hint="[[262, 995], [[1842], [5448, 13]]]",
    ),
    _row(
        "constraints", str, (), constraints.words, "PhrasalConstraint or DisjunctiveConstraint objects",
        "Another form of force_words_ids.", paper="arXiv:1804.06609", multiple=True,
    ),
    _row(
        "penalty_alpha", float, None, optional(number(0.0, 1.0)), "a number in [0, 1]",
        "Contrastive search among the top_k tokens: the weight of being unlike what is there.",
        paper="arXiv:2202.06417", hint="penalty_alpha=0.6, top_k=4",
    ),
    _row(
        "dola_layers", str, None, _dola_layers, "low, high or layers, whole numbers of 0 or more",
        "Contrast the last layer with the one among these that differs most from it.",
        paper="arXiv:2309.03883",
    ),
    _row(
        "guidance_scale", float, None, optional(number(-_MOST, _MOST)), "a finite number",
        "Strengthen what sets the prompt apart from the negative prompt; 1 is off.",
        paper="arXiv:2306.17806", hint="1.5 is usual",
    ),
    _row(
        "negative_prompt", str, None, optional(_text), "a text",
        "The prompt that guidance_scale leads away from; without one, the last token of the prompt.",
        paper="arXiv:2306.17806",
    ),
    _row(
        "negative_prompt_ids", str, None, id_sequence, "token ids, at least one",
        "The negative prompt as token ids.", paper="arXiv:2306.17806",
    ),
    _row(
        "truncate", str, None, optional(one_of("left", "right", "middle")), "left, right or middle",
        "Where to cut a prompt that does not fit the context window; without it such a prompt is an error.",
        choices=("left", "right", "middle"),
    ),
    _row(
        "overflow", str, "stop", one_of("stop", "slide"), "stop or slide",
        "When the context window is full: stop, or slide it (read the last part again and go on).",
        choices=("stop", "slide"),
    ),
    _row(
        "ignore_eos", bool, False, boolean, "true or false",
        "Go on after the end-of-text token.",
    ),
    _row(
        "allow_special", bool, False, boolean, "true or false",
        "Special tokens written in the prompt (<|endoftext|>) act as such; otherwise they are plain text.",
    ),
    _row(
        "json_schema", str, None, optional(schema), "a JSON schema: an object, or JSON text that is one",
        "The text is JSON that the schema accepts, with its members in the schema's order.",
        hint='{"type": "object"} for any object',
    ),
    _row(
        "regex", str, None, optional(_some_text), "a regular expression",
        "The whole text matches this expression; look-around and back-references are not known.",
    ),
    _row(
        "choice", str, (), strings, "strings, none of them empty",
        "The text is one of these strings.", multiple=True,
    ),
    _row(
        "grammar", str, None, optional(_some_text), "a grammar in Lark's notation",
        "The text is one that this grammar derives from its rule `start`.",
    ),
    _row(
        "token_healing", bool, False, boolean, "true or false",
        "The last tokens of the prompt are chosen anew, among those that begin with its last bytes.",
    ),
)  # fmt: skip

RULES: Final[Mapping[str, Rule]] = MappingProxyType({row.spec.name: row for row in _ROWS})
"""Option name -> its row, in the order in which they are documented."""


def option_specs() -> list[OptionSpec]:
    """Every option, in the order in which they are documented."""
    return [rule.spec for rule in RULES.values()]
