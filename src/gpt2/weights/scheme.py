"""How a model's matrices are quantised: the record that config.json carries under "quantization".

The rounding itself is gpt2.quant's; the tensors that a scheme stores, with their shapes, are packed.py's.
Here is only what a file may say, and what it means. Knows no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from gpt2.config import GPT2Config
from gpt2.errors import ConfigError, InvalidRequest

Method: TypeAlias = Literal["int8", "int4"]

KEY = "quantization"
"""The key of config.json and of the safetensors header's __metadata__."""
GROUPS = (32, 64, 128)
"""How many consecutive inputs of an int4 matrix may share a multiplier."""
DEFAULT_GROUP = 32

_FIELDS = ("method", "group", "symmetric", "head", "equalised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What the integers of a quantised model mean. Raises InvalidRequest.

    int8: weight = scale[j] * (q - zero[j]), one scale for each output j. int4: the same with the integer
    mult[g][j] * q + offset[g][j] in place of q - zero[j], so that int4 is int8, written shorter.
    Activations are uint8 by row, made while computing.
    """

    method: Method
    """int8, or int4."""
    group: int | None = None
    """int4: how many consecutive inputs share mult and offset, one of GROUPS (None: 32). int8: None."""
    symmetric: bool = True
    """Without zero points: zero = 0, offset = -8 * mult, and neither is stored."""
    head: Literal["int8"] = "int8"
    """How the embedding, which is the head too, is kept: int8 by row, whatever the method."""
    equalised: bool = True
    """Whether channels were rescaled between LayerNorms and matrices before rounding (quant/equalise.py)."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InvalidRequest("method", got=repr(self.method)[:80], expected="int8 or int4")
        if self.method == "int4" and self.group is None:
            object.__setattr__(self, "group", DEFAULT_GROUP)
        allowed: tuple[int | None, ...] = GROUPS if self.method == "int4" else (None,)
        if isinstance(self.group, (bool, float)) or self.group not in allowed:
            expected = " or ".join(map(str, GROUPS)) if self.method == "int4" else "none: int8 has no groups"
            raise InvalidRequest("group", got=repr(self.group)[:80], expected=expected)
        for name in ("symmetric", "equalised"):
            if type(getattr(self, name)) is not bool:
                raise InvalidRequest(name, got=repr(getattr(self, name))[:80], expected="true or false")
        if self.head != "int8":
            raise InvalidRequest("head", got=repr(self.head)[:80], expected="int8")

    def to_dict(self) -> dict[str, Any]:
        """What config.json says. `from_dict(s.to_dict()) == s`."""
        group = {} if self.group is None else {"group": self.group}
        return {
            "method": f"gpt2-{self.method}",
            **group,
            "symmetric": self.symmetric,
            "head": self.head,
            "equalised": self.equalised,
        }

    @classmethod
    def from_dict(cls, raw: object, *, where: str | None = None) -> Scheme:
        """From config.json's "quantization". Raises ConfigError for what is unknown or impossible."""
        if not isinstance(raw, Mapping):
            raise ConfigError(KEY, where=where, got=type(raw).__name__, expected="an object")
        if unknown := sorted(str(key) for key in raw if key not in _FIELDS):
            raise ConfigError(
                f"{KEY}.{unknown[0][:40]} is unknown",
                where=where,
                expected=", ".join(_FIELDS),
                likely="a newer gpt2 wrote this model",
            )
        method = raw.get("method")
        if not isinstance(method, str) or method not in ("gpt2-int8", "gpt2-int4"):
            raise ConfigError(
                f"{KEY}.method",
                where=where,
                got=json.dumps(method)[:80] if isinstance(method, (str, int, type(None))) else "no text",
                expected="gpt2-int8 or gpt2-int4",
                likely="another program quantised this model, or a newer gpt2",
            )
        if missing := [name for name in ("symmetric", "head") if name not in raw]:
            raise ConfigError(f"{KEY}.{missing[0]} is missing", where=where)
        if method == "gpt2-int4" and raw.get("group") is None:
            raise ConfigError(f"{KEY}.group is missing", where=where, expected=f"one of {GROUPS}")
        try:
            return cls(**{"equalised": False, **raw, "method": method.removeprefix("gpt2-")})
        except InvalidRequest as error:
            raise ConfigError(
                f"{KEY}.{error.what}", where=where, got=error.got, expected=error.expected
            ) from None

    @classmethod
    def of(cls, config: GPT2Config) -> Scheme | None:
        """The scheme of a model, None where its matrices are floating point. Raises ConfigError."""
        raw = config.extra.get(KEY)
        return None if raw is None else cls.from_dict(raw, where="config.json")

    def __str__(self) -> str:
        parts = [self.method] + ([f"groups of {self.group}"] if self.group else [])
        parts += ["symmetric" if self.symmetric else "with zero points"]
        parts += [f"embedding {self.head}"] if self.method != self.head else []
        return ", ".join(parts + (["equalised"] if self.equalised else []))
