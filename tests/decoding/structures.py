"""Schemas, expressions and grammars with a judge for each that we did not write: jsonschema, re and lark.

Every text of theirs is bounded (maxLength, maxItems, counts), so that a model that has not finished within
`TOKENS` has done something wrong. Used by the tests here and by benchmarks/grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

TOKENS = 1000
"""More than the longest text needs, at one token per byte."""

_NAME = {"type": "string", "minLength": 1, "maxLength": 12}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 999}

SCHEMAS: dict[str, dict[str, Any]] = {
    "character": {
        "type": "object",
        "properties": {"name": _NAME, "age": _COUNT, "alive": {"type": "boolean"}},
        "required": ["name", "age", "alive"],
        "additionalProperties": False,
    },
    "optional members": {
        "type": "object",
        "properties": {
            "title": _NAME,
            "year": {"type": ["integer", "null"], "minimum": 1900, "maximum": 2100},
        },
        "required": ["year"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["north", "south", 3, None, True, {"deep": ["down"]}]},
    "list": {"type": "array", "items": _NAME, "minItems": 1, "maxItems": 4},
    "nested": {
        "type": "object",
        "properties": {
            "title": _NAME,
            "chapters": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"heading": _NAME, "pages": _COUNT},
                    "required": ["heading", "pages"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["title", "chapters"],
        "additionalProperties": False,
    },
    "references": {
        "$ref": "#/$defs/pair",
        "$defs": {
            "number": {"type": "number", "minimum": -10, "maximum": 10, "multipleOf": 0.25},
            "pair": {
                "type": "object",
                "properties": {"x": {"$ref": "#/$defs/number"}, "y": {"$ref": "#/$defs/number"}},
                "required": ["x", "y"],
                "additionalProperties": False,
            },
        },
    },
    "any of": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"yes": _COUNT},
                "required": ["yes"],
                "additionalProperties": False,
            },
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            {"type": "string", "maxLength": 8},
        ]
    },
    "pattern": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}( [A-Z][a-z]{1,8})?$"},
    "formats": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "at": {"type": "string", "format": "ipv4"},
            "id": {"type": "string", "format": "uuid"},
        },
        "required": ["day", "at", "id"],
        "additionalProperties": False,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string", "maxLength": 6}, {"type": "integer", "minimum": -5, "maximum": 5}],
        "items": False,
        "minItems": 2,
    },
    "constants": {
        "type": "object",
        "properties": {"kind": {"const": "story"}, 'quote "it" \\ é': {"const": "a\n\té😀"}},
        "required": ["kind", 'quote "it" \\ é'],
        "additionalProperties": False,
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": _COUNT}, "required": ["a"]},
            {"properties": {"b": {"type": "string", "maxLength": 5}}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": True, "b": True},
    },
}

REGEXES = {
    "date": r"(19|20)\d{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "words": r"[A-Z][a-z]{0,9}( [a-z]{1,9}){2,5}\.",
    "beyond ASCII": r"[à-ÿ]{2}(😀|é|—)[^a-z]{0,3}x?",
}

CHOICES = (("yes", "no"), ("a", "ab", "abc", "b"), ('say "hi"\n', "\\", "é😀", " "))

# In the notation that both lark and llguidance read.
GRAMMARS = {
    "sums": """
start: sum
sum: product (("+" | "-") product)~0..3
product: atom (("*" | "/") atom)~0..2
atom: NUMBER | "(" NUMBER "+" NUMBER ")"
NUMBER: /[0-9]{1,4}/
""",
    "commands": """
start: command (";" command)~0..3
command: "go " PLACE | "take " COUNT " " THING
PLACE: "north" | "south" | "home"
THING: "lamp" | "key" | "lantern"
COUNT: /[1-9][0-9]?/
""",
    "nested lists": """
start: list
list: "[" (item ("," item)~0..2)? "]"
item: WORD | short
short: "[" WORD "]"
WORD: /[a-z]{1,6}/
""",
}


def judges() -> dict[tuple[str, str], tuple[Mapping[str, Any], Callable[[str], None]]]:
    """(option, name) -> the options to generate with, and what raises for a text that does not obey."""
    cases: dict[tuple[str, str], tuple[Mapping[str, Any], Callable[[str], None]]] = {}
    for name, schema in SCHEMAS.items():
        cases["json_schema", name] = {"json_schema": schema}, _json_judge(schema)
    for name, regex in REGEXES.items():
        cases["regex", name] = {"regex": regex}, _regex_judge(regex)
    for choices in CHOICES:
        cases["choice", choices[0]] = {"choice": choices}, _choice_judge(choices)
    for name, grammar in GRAMMARS.items():
        cases["grammar", name] = {"grammar": grammar}, _lark_judge(grammar)
    return cases


def _json_judge(schema: dict[str, Any]) -> Callable[[str], None]:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema)
    judge = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return lambda text: judge.validate(json.loads(text))


def _regex_judge(regex: str) -> Callable[[str], None]:
    def judge(text: str) -> None:
        if not re.fullmatch(regex, text):
            raise ValueError(f"{text!r} does not match {regex}")

    return judge


def _choice_judge(choices: tuple[str, ...]) -> Callable[[str], None]:
    def judge(text: str) -> None:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {choices}")

    return judge


def _lark_judge(grammar: str) -> Callable[[str], None]:
    import lark

    parser = lark.Lark(grammar, parser="earley", lexer="dynamic")
    return lambda text: parser.parse(text) and None
