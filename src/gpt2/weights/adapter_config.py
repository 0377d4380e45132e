"""adapter_config.json of PEFT: what it asks for, what of it is honoured here, and how it names modules.

A field that would change what is computed and that is not supported is an error that names it; one that only
says how the training went is kept out of the way. Knows no tensors (adapters.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2.errors import ConfigError, CorruptFile, ModelNotFound, WeightsError
from gpt2.weights.strict_json import clip, load_object

FILE = "adapter_config.json"
_MAX_BYTES = 1 << 20
MAX_RANK = 4096
"""More than the largest GPT-2's width has no use, and the engine's buffers are made for it."""
_MAX_ALPHA = 1e6

_SAYS_NOTHING = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type",
}  # fmt: skip
"""Fields that change nothing in a trained adapter: how its first weights were drawn, where the model was."""

_READ = {
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "lora_alpha",
    "peft_type", "r", "rank_pattern", "target_modules", "use_dora", "use_rslora",
}  # fmt: skip

_MEANS = {
    "modules_to_save": "whole matrices that were trained beside the adapter",
    "lora_bias": "a bias in the adapter's second matrix",
    "trainable_token_indices": "rows of the embedding that were trained",
    "target_parameters": "parameters of other modules",
    "layer_replication": "blocks that occur several times",
    "alora_invocation_tokens": "an adapter that begins in the middle of a text",
}

# These draw A and B from the base's weights and change the base, too: a reader would have to repeat that.
_CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What of adapter_config.json matters."""

    r: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0
    base: str | None = None
    targets: tuple[str, ...] | None = None
    """Ends of module names; None where they are given as a pattern, which is not looked into."""
    excluded: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        return int(_valued(self.ranks, module, self.r))

    def alpha_of(self, module: str) -> float:
        return _valued(self.alphas, module, self.alpha)

    def names(self, module: str, layer: int) -> bool | None:
        """Whether the config says that this module is adapted; None where it cannot be told."""
        if self.targets is None:
            return None
        if _ends(module, self.excluded):
            return False
        if self.layers is not None and layer not in self.layers:
            return module in self.targets
        return _ends(module, self.targets)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Raises ModelNotFound, CorruptFile (no JSON), ConfigError (a field that cannot be honoured)."""
    path = folder / FILE
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(
            "this is no adapter: it has no adapter_config.json",
            where=str(folder),
            expected="a directory that PEFT's save_pretrained wrote",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise WeightsError("the file cannot be read", where=str(path), got=reason) from None
    if len(data) > _MAX_BYTES:
        raise CorruptFile("the file is too large", where=str(path), expected=f"at most {_MAX_BYTES:,} bytes")
    return _Reader(load_object(data, where=str(path), part="the adapter's config"), str(path)).config()


class _Reader:
    """The fields of one file, each checked as it is taken."""

    def __init__(self, raw: dict[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def wrong(self, name: str, expected: str, **more: str) -> ConfigError:
        got = clip(self.raw.get(name))
        return ConfigError(name, where=self.where, got=got, expected=expected, **more)

    def config(self) -> AdapterConfig:
        self._refuse()
        r = self._number("r", 8, 1, MAX_RANK, whole=True)
        base = self.raw.get("base_model_name_or_path")
        return AdapterConfig(
            r=int(r),
            alpha=self._number("lora_alpha", 8, -_MAX_ALPHA, _MAX_ALPHA),
            rslora=self._flag("use_rslora"),
            dora=self._flag("use_dora"),
            dropout=self._number("lora_dropout", 0.0, 0.0, 1.0),
            base=base if isinstance(base, str) and 0 < len(base) <= 4096 else None,
            targets=self._targets(),
            excluded=self._names("exclude_modules") or (),
            layers=self._layers(),
            ranks=self._pattern("rank_pattern", 1, MAX_RANK, whole=True),
            alphas=self._pattern("alpha_pattern", -_MAX_ALPHA, _MAX_ALPHA),
        )

    def _refuse(self) -> None:
        """What would change the result and is not supported."""
        kind = self.raw.get("peft_type")
        if kind != "LORA":
            raise self.wrong("peft_type", '"LORA"', likely="this is another kind of adapter, or none")
        self._flag("fan_in_fan_out")  # only says how the base stores its matrices, which this project knows
        if self.raw.get("bias", "none") != "none":
            raise self.wrong("bias", '"none"', likely="the base's biases were trained, too")
        init = self.raw.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower().startswith(_CHANGE_THE_BASE):
            raise self.wrong(
                "init_lora_weights", "true, false, gaussian, eva or orthogonal",
                likely="this way to begin changes the base's matrices as well",
                hint="save it with path_initial_model_for_weight_conversion, which makes a plain adapter",
            )  # fmt: skip
        for name in self.raw.keys() - _READ - _SAYS_NOTHING:
            if self.raw[name] in (None, False, "", [], {}):
                continue
            raise self.wrong(
                name if name.isprintable() and len(name) <= 60 else clip(name, 60),
                "null, false or absent",
                likely=f"this asks for {_MEANS.get(name, 'something that is not supported here')}",
            )

    def _flag(self, name: str) -> bool:
        value = self.raw.get(name, False)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def _number(self, name: str, default: float, low: float, high: float, *, whole: bool = False) -> float:
        value = self.raw.get(name, default)
        if not _is_number(value, low, high, whole):
            raise self.wrong(name, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}")
        return value  # type: ignore[no-any-return]

    def _names(self, name: str) -> tuple[str, ...] | None:
        """A list of module names; None where it is a pattern or absent."""
        value = self.raw.get(name)
        if value is None or isinstance(value, str):
            return None
        if type(value) is not list or len(value) > 10_000 or not all(type(one) is str for one in value):
            raise self.wrong(name, "a list of names, or a text")
        return tuple(value)

    def _targets(self) -> tuple[str, ...] | None:
        if self.raw.get("target_modules") == "all-linear":
            return ("c_attn", "c_proj", "c_fc")
        if isinstance(self.raw.get("exclude_modules"), str):
            return None
        return self._names("target_modules")

    def _layers(self) -> tuple[int, ...] | None:
        value = self.raw.get("layers_to_transform")
        if value is None or value == []:
            return None
        many = value if type(value) is list else [value]
        if not all(type(one) is int and 0 <= one < 10_000 for one in many):
            raise self.wrong("layers_to_transform", "numbers of blocks")
        return tuple(many)

    def _pattern(self, name: str, low: float, high: float, *, whole: bool = False) -> dict[str, float]:
        value = self.raw.get(name)
        if value is None:
            return {}
        if type(value) is not dict or not all(_is_number(one, low, high, whole) for one in value.values()):
            raise self.wrong(name, f"module names, each with a number from {low:g} to {high:g}")
        patterns = [key for key in value if not _PLAIN.fullmatch(key)]
        if len(value) > 10_000 or len(patterns) > _MOST_PATTERNS:
            raise self.wrong(name, f"at most {_MOST_PATTERNS} patterns among its names")
        for key in patterns:
            if _compiled(key) is None:
                raise ConfigError(
                    name, where=self.where, got=clip(key), expected="names of modules, or simple patterns",
                    hint="the modules' full names, as in transformer.h.0.attn.c_attn",
                )  # fmt: skip
        return value


def _is_number(value: object, low: float, high: float, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    return type(value) in kinds and low <= value <= high  # type: ignore[operator]  # NaN fails the comparison


# --- names of modules ---

_PLAIN = re.compile(r"[A-Za-z0-9_.]{1,200}")
_SIMPLE = re.compile(r"(?:[A-Za-z0-9_.^$|()?:-]|\\[.d]|\[[A-Za-z0-9_-]{1,40}\]|[*+](?![*+?]))+")
_MOST_PATTERNS, _MOST_REPEATS = 16, 2
"""A stranger's patterns must not take long: few of them, none repeats a group, and repeats are counted."""


def _valued(pattern: Mapping[str, float], module: str, default: float) -> float:
    """As PEFT does: the first key that matches the end of the module's name, from a dot on."""
    for key, value in pattern.items():
        matches = _compiled(key)
        if matches is not None and matches(module):
            return value
    return default


def _compiled(key: str) -> Callable[[str], object] | None:
    """What tells whether a module is meant by a key of a pattern; None where the key is not simple."""
    if _PLAIN.fullmatch(key):
        return lambda module: module == key or module.endswith(f".{key}")
    repeats = sum(key.count(sign) for sign in "*+")
    if len(key) > 200 or repeats > _MOST_REPEATS or not _SIMPLE.fullmatch(key) or re.search(r"\)[*+]", key):
        return None
    try:
        return re.compile(rf"(.*\.)?({key})$").match
    except re.error:
        return None


def _ends(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
