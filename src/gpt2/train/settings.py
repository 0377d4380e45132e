"""Every setting of a training run, in one frozen record.

A name here is the key of a recipe's TOML file and the flag of the command (`lora_rank` is `--lora-rank`). A
recipe is a set of other defaults for the same fields. What a run does depends on these settings, the data and
the model that it starts from, and on nothing else; so a checkpoint carries them, and going on with others is
refused, except for those marked `free`, which change when things are written and not what is learnt.

    Settings.of("finetune", batch=8)         a recipe's defaults, and what is given
    read_toml("recipe.toml")                 the table of a file, names checked
    differences(old, new)                    what a refused resume shows

Needs no PyTorch, so that `--help` is instant. Knows no model and no data.

Letters: T tokens of a window, C = n_embd.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt2.errors import InvalidRequest, UnknownOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a command line or a page needs to know about one setting."""

    type: type
    """Of one value: int, float, str or bool."""
    help: str
    range: str
    """The values that are accepted, in words."""
    accept: Callable[[Any], bool]
    choices: tuple[str, ...] | None = None
    many: bool = False
    """A list of such values; the field is a tuple."""
    optional: bool = False
    """None is accepted, too: the recipe or the model decides."""
    free: bool = False
    """May differ when a run is resumed."""


def _setting(
    default: Any, type_: type, help_: str, range_: str, accept: Callable[[Any], bool], **more: Any
) -> Any:
    optional = default is None or more.pop("optional", False)
    facts = Facts(type=type_, help=help_, range=range_, accept=accept, optional=optional, **more)
    return field(default=default, metadata={"facts": facts})


def _whole(default: int | None, help_: str, low: int = 1, **more: Any) -> Any:
    return _setting(default, int, help_, f"a whole number from {low}", lambda v: low <= v < 1 << 62, **more)


def _number(default: float | None, help_: str, low: float, high: float, **more: Any) -> Any:
    said = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number from {low:g}"
    return _setting(default, float, help_, said, lambda v: low <= v <= high and math.isfinite(v), **more)


def _flag(default: bool | None, help_: str, **more: Any) -> Any:
    return _setting(default, bool, help_, "true or false", lambda v: True, **more)


def _text(default: str | None, help_: str, **more: Any) -> Any:
    return _setting(default, str, help_, "text", lambda v: "\0" not in v, **more)


def _choice(default: str, choices: tuple[str, ...], help_: str, **more: Any) -> Any:
    said = "one of " + ", ".join(choices)
    return _setting(default, str, help_, said, lambda v: v in choices, choices=choices, **more)


LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""The four linears of a block, which LoRA may adapt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run. Raises InvalidRequest for a value that is impossible, naming the setting."""

    recipe: str = _choice(
        "finetune", ("pretrain", "finetune", "lora"),
        "pretrain: fresh weights; finetune: all weights of a model; lora: small matrices beside a model",
    )  # fmt: skip
    model: str | None = _text(
        None, "the model to start from (pretrain: whose vocabulary it uses); the bundled one when absent"
    )
    data: tuple[str, ...] = _setting(
        (), str, "text files, JSONL, CSV, folders, or one folder written by gpt2 prepare", "paths",
        lambda v: bool(v), many=True, free=True,
    )  # fmt: skip
    output: str | None = _text(
        None, "the directory of the model that comes out; the run is in its run/", free=True
    )
    general: str | None = _text(
        None,
        "a text file that is not of the domain: what the model forgets is measured on it; on text that the "
        "model wrote before when absent",
        free=True,
    )
    seed: int = _whole(0, "decides the fresh weights, the order of the data and the dropout", 0)

    # What is read out of the sources; a folder that gpt2 prepare wrote is taken as it is.
    text_column: str | None = _text(None, "tables and JSONL: the column that is the text")
    prompt_column: str | None = _text(None, "tables and JSONL: the column that is context and not learnt")
    completion_column: str | None = _text(
        None, "tables and JSONL: the column that is learnt after the prompt"
    )
    separator: str | None = _text(
        None, "what stands between the documents of a text file; a file is one without"
    )
    validation: float = _number(0.05, "the share of the documents that is held out to measure on", 0, 0.9)

    # The shape of fresh weights (pretrain); otherwise the model's own.
    n_layer: int = _whole(12, "pretrain: L, blocks")
    n_head: int = _whole(12, "pretrain: H, heads")
    n_embd: int = _whole(768, "pretrain: C, the width")
    n_positions: int = _whole(1024, "pretrain: the longest context")
    zero_residual: bool = _flag(
        False,
        "pretrain: what writes to the residual stream begins as zeros, so that blocks begin as identities",
    )
    dropout: float | None = _number(
        None, "share of activations dropped in training; the model's own when absent", 0, 0.9
    )

    # The data of a step.
    window: int | None = _whole(None, "T, tokens of a sequence; the model's context when absent", 2)
    batch: int | None = _whole(
        None, "sequences per step, over all processes; when absent 8, or fewer where there is little text"
    )
    micro_batch: int | None = _whole(
        None, "sequences computed at once by a process; batch = micro_batch x processes x passes"
    )
    packing: str = _choice(
        "documents", ("documents", "stream"),
        "documents: what is packed into one sequence does not see each other; stream: it does",
    )  # fmt: skip

    # How long.
    epochs: float = _number(3.0, "passes over the data", 0.001, 1e6)
    max_steps: int | None = _whole(None, "stop after so many steps, whatever epochs says")

    # How the weights move.
    optimizer: str = _choice("adamw", ("adamw", "muon"), "muon: block matrices by Muon, the rest by AdamW")
    lr: float | None = _number(
        None,
        "peak learning rate of AdamW; when absent the recipe's for 768 channels, times 768 / channels",
        0,
        10,
    )
    muon_lr: float = _number(0.02, "peak learning rate of Muon", 0, 10)
    beta1: float = _number(0.9, "AdamW: decay of the mean of gradients", 0, 0.999999)
    beta2: float = _number(0.999, "AdamW: decay of the mean of their squares", 0, 0.999999999)
    epsilon: float = _number(1e-8, "AdamW: added to the root", 1e-20, 1)
    weight_decay: float = _number(0.01, "decoupled; never on biases and LayerNorms (arXiv:1711.05101)", 0, 10)
    decay_positions: bool = _flag(True, "decay the position embedding, too")
    clip: float = _number(1.0, "largest norm of the gradient; 0 is no clipping", 0, 1e9)
    schedule: str = _choice(
        "linear", ("cosine", "linear", "constant", "wsd"),
        "how the rate goes after the warm-up; wsd stays, then falls in the last part",
    )  # fmt: skip
    warmup: float = _number(0.0, "steps of warm-up; below 1: a share of all steps", 0, 1e9)
    final_lr: float = _number(0.0, "the rate at the end, as a share of the peak", 0, 1)
    decay: float = _number(0.2, "wsd: the share of the steps in which the rate falls", 0.0, 1)

    # How it is computed.
    precision: str = _choice(
        "float32", ("float32", "bfloat16", "float16"), "of the matrix products; weights stay float32"
    )
    activation_checkpointing: bool = _flag(False, "keep only the inputs of blocks: less memory, more time")
    compile: bool = _flag(False, "compile blocks and loss (torch.compile); needs a C++ compiler on a CPU")
    loss_rows: int = _whole(1024, "positions whose logits exist at once")
    shard: bool = _flag(False, "several processes: FSDP2, each holds a part of the weights, not DDP")
    threads: int | None = _whole(None, "threads of each process; another number gives other bits", free=True)

    # LoRA (arXiv:2106.09685).
    lora_rank: int = _whole(8, "lora: the inner width of an adapter")
    lora_alpha: float = _number(16.0, "lora: its output is scaled by alpha / rank", 1e-6, 1e6)
    lora_dropout: float = _number(0.0, "lora: share of its input dropped in training", 0, 0.9)
    lora_targets: tuple[str, ...] = _setting(
        LINEARS, str, "lora: which linears of a block", "some of " + ", ".join(LINEARS),
        lambda v: bool(v) and set(v) <= set(LINEARS), many=True,
    )  # fmt: skip
    dora: bool = _flag(False, "lora: learn the magnitudes apart (arXiv:2402.09353)")

    # When it looks, stops and saves.
    evaluate_every: int | None = _whole(
        None,
        "steps between evaluations; four per epoch when absent, but not more often than every tenth step",
    )
    evaluate_windows: int = _whole(256, "sequences of the held-out part that an evaluation takes at most")
    patience: int = _whole(3, "stop after so many evaluations without a better one; 0 is never", 0)
    checkpoint_every: int | None = _whole(
        None, "steps between checkpoints; 20 per run when absent", free=True
    )
    keep: int = _whole(2, "checkpoints that are kept", 2, free=True)
    log_every: int = _whole(10, "steps between lines of the log", free=True)
    sample_every: int = _whole(0, "steps between samples; 0 is never", 0, free=True)
    save_precision: str = _choice(
        "float32", ("float32", "bfloat16"), "of the weights in the model directory; checkpoints are float32",
        free=True,
    )  # fmt: skip
    prompts: tuple[str, ...] = _setting(
        ("",), str, "prompts of the samples; an empty one starts a text", "texts", lambda v: bool(v),
        many=True, free=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, facts in setting_facts().items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), facts))
        if self.micro_batch and self.batch and self.batch % self.micro_batch:
            raise InvalidRequest(
                "micro_batch", got=self.micro_batch, expected=f"a divisor of batch={self.batch}"
            )

    @classmethod
    def of(cls, recipe: str = "finetune", **given: Any) -> Settings:
        """The defaults of a recipe and what is given. Raises UnknownOption, InvalidRequest."""
        if recipe not in RECIPES:
            raise InvalidRequest("recipe", got=repr(recipe), expected="one of " + ", ".join(RECIPES))
        check_names(given)
        return cls(**{**RECIPES[recipe], **given, "recipe": recipe})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_toml(self) -> str:
        """A recipe file that gives these settings again."""
        lines = []
        for name, value in self.to_dict().items():
            if value is None:
                continue
            # JSON's strings, numbers, booleans and lists are TOML's, but for exponents without a point.
            text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=True)
            lines.append(f"{name} = {text}")
        return "\n".join(lines) + "\n"

    def replace(self, **changes: Any) -> Settings:
        check_names(changes)
        return dataclasses.replace(self, **changes)


RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Radford et al. trained 512 windows of 1024; nanoGPT and llm.c settled the rest for 124M.
        "pretrain": {
            "beta2": 0.95, "weight_decay": 0.1, "schedule": "cosine", "warmup": 0.02,
            "final_lr": 0.1, "batch": 32, "epochs": 1.0, "packing": "stream", "patience": 0, "dropout": 0.0,
        },
        # transformers' Trainer, but for a warm-up and for stopping early.
        "finetune": {"warmup": 0.05, "epochs": 10.0},
        "lora": {"warmup": 0.05, "epochs": 10.0, "weight_decay": 0.0},
    }
)  # fmt: skip
"""What a recipe sets otherwise than Settings does."""

PEAK_AT_768: Mapping[str, float] = MappingProxyType({"pretrain": 6e-4, "finetune": 5e-5, "lora": 2e-4})
"""Peak learning rates for 768 channels: those of nanoGPT, of transformers' Trainer and of the LoRA paper."""


def default_rate(recipe: str, channels: int) -> float:
    """The peak rate of AdamW for a model of this width: in proportion to 1 / width, as its updates ask for
    (Yang et al. 2022, arXiv:2203.03466); never above 3e-3."""
    return min(3e-3, PEAK_AT_768[recipe] * 768 / channels)


def setting_facts() -> dict[str, Facts]:
    """The facts of every setting, in order."""
    return {f.name: f.metadata["facts"] for f in fields(Settings)}


def _checked(name: str, value: Any, facts: Facts) -> Any:
    def wrong() -> InvalidRequest:
        or_none = " (or absent)" if facts.optional else ""
        return InvalidRequest(name, got=repr(value)[:80], expected=facts.range + or_none)

    if value is None:
        if facts.optional:
            return None
        raise wrong()
    if facts.many:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise wrong()
        value = tuple(value)
        if value and not (all(type(one) is facts.type for one in value) and facts.accept(value)):
            raise wrong()
        return value
    if facts.type is float and type(value) is int:
        value = float(value)
    if type(value) is not facts.type or not facts.accept(value):
        raise wrong()
    return value


def check_names(given: Mapping[str, Any], where: str | None = None) -> None:
    """Raise UnknownOption, with the nearest name, for a name that no setting has."""
    known = setting_facts()
    for name in given:
        if name not in known:
            raise UnknownOption.named(name, known, where=where)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a recipe file gives, names checked. Raises InvalidRequest, UnknownOption.

    Tables only group: `[lora] rank = 8` is not read, `lora_rank = 8` is, in any table.
    """
    where = os.fspath(path)
    try:
        table = tomllib.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise InvalidRequest("the recipe cannot be read", where=where, got=error.strerror) from None
    except ValueError as error:  # of TOML and of UTF-8
        raise InvalidRequest("the recipe is no TOML", where=where, likely=str(error)[:200]) from None
    given: dict[str, Any] = {}
    for name, value in table.items():
        inner = value if isinstance(value, dict) else {name: value}
        for key, one in inner.items():
            if key in given:
                raise InvalidRequest(f"{key} is given twice", where=where)
            given[key] = one
    check_names(given, where)
    return given


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "name: old, now new" for every setting that may not change in a resumed run, and does.

    Both as Settings.to_dict() gives them; a name that one of them lacks counts with its default.
    """
    defaults = {f.name: f.default for f in fields(Settings)}
    out = []
    for name, facts in setting_facts().items():
        before, after = (_plain(side.get(name, defaults[name])) for side in (old, new))
        if not facts.free and before != after:
            out.append(f"{name}: {before!r}, now {after!r}")
    return out


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
