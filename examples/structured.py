"""Ask for text of a given form: JSON of a schema, a choice, an expression, a grammar.

The bundled model knows no facts, but even it keeps to the form.
"""

from __future__ import annotations

import json

import gpt2

CHARACTER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["hero", "villain", "fool"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}

MOVES = """
start: move (", " move)~0..3
move: ("go " | "look ") PLACE
PLACE: "north" | "south" | "home"
"""


def main() -> None:
    lm = gpt2.load()
    for done in lm.generate("A person of my story: ", json_schema=CHARACTER, n=3, seed=1):
        print(json.loads(done.text))
    print(lm.generate("Was she happy? ", choice=("yes", "no"), seed=1).text)
    print(lm.generate("It happened on ", regex=r"[12]\d? (May|June) 18\d\d", seed=1).text)
    print(lm.generate("What to do: ", grammar=MOVES, seed=1).text)


if __name__ == "__main__":
    main()
