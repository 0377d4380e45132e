"""The shape of a GPT-2, as Hugging Face's config.json states it.

One frozen record from the file to the engine. Field names are Hugging Face's. A key that is unknown here and
cannot change the result survives a round trip in `extra`; a key that would change the result and cannot be
honoured is a ConfigError that names it. Knows no tensors (weights/names.py) and no arithmetic (native/model).

Letters: V = vocab_size, T = n_positions, C = n_embd, H = n_head, D = C/H, I = n_inner, L = n_layer.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpt2.errors import ConfigError

ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        # name in config.json -> the function, by the one name that the native code uses
        "gelu_new": "gelu_new",  # 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): OpenAI's GPT-2
        "gelu_pytorch_tanh": "gelu_new",
        "gelu_python_tanh": "gelu_new",
        "gelu_accurate": "gelu_new",
        "gelu_fast": "gelu_new",  # the same polynomial, factored; sqrt(2/pi) given to 10 digits
        "gelu": "gelu",  # x Phi(x), by erf (arXiv:1606.08415)
        "gelu_python": "gelu",
        "quick_gelu": "quick_gelu",  # x sigmoid(1.702 x)
        "relu": "relu",
        "silu": "silu",  # x sigmoid(x)
        "swish": "silu",
        "tanh": "tanh",
    }
)
"""Every activation_function that is honoured, and which function it is."""

# Older and generic spellings that Hugging Face reads as the GPT-2 name.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# The largest value of each size. Far above any GPT-2 (1.5B: V 50257, T 1024, C 1600, L 48), far below what
# would overflow a 64-bit byte count or make the table of expected tensors itself an attack.
_LIMITS = {
    "vocab_size": 1 << 24,
    "n_positions": 1 << 20,
    "n_embd": 1 << 16,
    "n_inner": 1 << 18,
    "n_layer": 512,
}
_MAX_PARAMS = 1 << 36
_MAX_JSON_BYTES = 4 << 20


# What every written config.json says of itself, unless `extra` knows better.
_WRITTEN: Mapping[str, Any] = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}


def _absent(value: object) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _one_of(*allowed: object) -> Callable[[object], bool]:
    return lambda value: value is None or value in allowed


# Keys that change what the model computes and that a GPT-2 does not have: harmless only while they say "off".
_UNSUPPORTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "add_cross_attention": (_absent, "cross-attention layers"),
    "cross_attention_hidden_size": (_absent, "cross-attention layers"),
    "is_encoder_decoder": (_absent, "an encoder-decoder"),
    "pruned_heads": (_absent, "heads removed on loading"),
    "quantization_config": (_absent, "weights in a quantised layout"),
    "compression_config": (_absent, "weights in a compressed layout"),
    "rope_scaling": (_absent, "rotary positions"),
    "rope_theta": (_absent, "rotary positions"),
    "rope_parameters": (_absent, "rotary positions"),
    "alibi": (_absent, "ALiBi positions"),
    "position_embedding_type": (_one_of("absolute", "learned"), "another kind of position embedding"),
    "sliding_window": (_absent, "attention in a sliding window"),
    "multi_query": (_absent, "multi-query attention"),
    "attention_head_type": (_one_of("multihead"), "multi-query attention"),
    "final_logit_softcapping": (_absent, "capped logits"),
    "attn_logit_softcapping": (_absent, "capped attention scores"),
    "logit_scale": (_one_of(1), "scaled logits"),
    "mup_width_scale": (_one_of(1), "muP scaling"),
    "mup_embeddings_scale": (_one_of(1), "muP scaling"),
    "mup_output_alpha": (_one_of(1), "muP scaling"),
    "num_experts": (_absent, "a mixture of experts"),
    "num_local_experts": (_absent, "a mixture of experts"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Config:
    """Everything that decides what a GPT-2 computes; the defaults are the 124M model. Raises ConfigError."""

    vocab_size: int = 50257
    """V, entries of the vocabulary: rows of wte."""
    n_positions: int = 1024
    """The longest context: rows of wpe."""
    n_embd: int = 768
    """C, the width of the residual stream."""
    n_layer: int = 12
    """L, the number of blocks."""
    n_head: int = 12
    """H, the heads of each attention layer; divides n_embd."""
    n_inner: int | None = None
    """I, the width of the MLP; None is 4 * n_embd."""
    activation_function: str = "gelu_new"
    """One of ACTIVATIONS."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in each LayerNorm."""
    scale_attn_weights: bool = True
    """Divide the attention scores by sqrt(D)."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide the attention scores of block i by i + 1, too (Mistral's stable variant)."""
    reorder_and_upcast_attn: bool = False
    """Changes only the precision of attention in 16-bit training; the engine sums in float32 anyway."""
    tie_word_embeddings: bool = True
    """The head is wte; otherwise the file has its own lm_head.weight."""
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None
    initializer_range: float = 0.02
    """Training only: standard deviation of fresh weights."""
    embd_pdrop: float = 0.1
    """Training only."""
    attn_pdrop: float = 0.1
    """Training only."""
    resid_pdrop: float = 0.1
    """Training only."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keys of config.json that change nothing here, kept for whoever reads the file next."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", dict(self.extra))
        _check_sizes(self)
        _check_values(self)
        _check_extra(self)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> GPT2Config:
        """From a config.json, a directory that holds one, or its contents as a mapping.

        A missing field has Hugging Face's default. Raises ConfigError, which names the file and the field.
        """
        if isinstance(source, Mapping):
            return _from_mapping(dict(source))
        path = Path(source)
        if path.is_dir():
            path = path / "config.json"
        try:
            return _from_mapping(_read_json(path))
        except ConfigError as error:
            if error.where is not None:
                raise
            facts = {name: getattr(error, name) for name in ("got", "expected", "source", "likely", "hint")}
            raise ConfigError(error.what, where=str(path), **facts) from None

    def to_dict(self) -> dict[str, Any]:
        """What config.json says: Hugging Face's keys and the kept ones. `from_json(c.to_dict()) == c`."""
        out: dict[str, Any] = {**_WRITTEN, "architectures": ["GPT2LMHeadModel"], **self.extra}
        out.update((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "extra")
        out.update((name, getattr(self, same_as)) for name, same_as in _SAME if out.get(name) is not None)
        if isinstance(self.eos_token_id, tuple):
            out["eos_token_id"] = list(self.eos_token_id)
        return out

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write config.json (into `path` if that is a directory), whole or not at all. Returns the file."""
        import tempfile  # costs 10 ms, which reading need not wait for

        target = Path(path)
        if target.is_dir():
            target = target / "config.json"
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(scratch, 0o644)
            os.replace(scratch, target)
        except BaseException:
            os.unlink(scratch)
            raise
        return target

    @property
    def head_dim(self) -> int:
        """D, the width of one head."""
        return self.n_embd // self.n_head

    @property
    def inner(self) -> int:
        """I, the width of the MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def activation(self) -> str:
        """The activation by its native name: gelu_new, gelu, quick_gelu, relu, silu or tanh."""
        return ACTIVATIONS[self.activation_function]

    @property
    def n_params(self) -> int:
        """The number of trained parameters; a tied head counts once. 124,439,808 for gpt2."""
        return _count_params(self)


def _count_params(config: GPT2Config) -> int:
    c, inner = config.n_embd, config.inner
    attention = c * 3 * c + 3 * c + c * c + c
    mlp = c * inner + inner + inner * c + c
    embeddings = (config.vocab_size + config.n_positions) * c
    head = 0 if config.tie_word_embeddings else config.vocab_size * c
    return embeddings + config.n_layer * (4 * c + attention + mlp) + 2 * c + head


def _wrong(name: str, got: object, expected: str, **more: str) -> ConfigError:
    shown = json.dumps(got) if isinstance(got, (bool, int, float, str, type(None))) else type(got).__name__
    return ConfigError(name, got=shown if len(shown) <= 80 else shown[:77] + "...", expected=expected, **more)


_FLAGS = (
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
)
_FRACTIONS = ("layer_norm_epsilon", "initializer_range", "embd_pdrop", "attn_pdrop", "resid_pdrop")
# Other names for what a field already says. A file in which they differ contradicts itself.
_SAME = (("n_ctx", "n_positions"), ("head_dim", "head_dim"), ("num_key_value_heads", "n_head"))


def _check_sizes(config: GPT2Config) -> None:
    for name, limit in _LIMITS.items():
        value = getattr(config, name)
        if name == "n_inner" and value is None:
            continue
        if type(value) is not int or not 1 <= value <= limit:
            raise _wrong(name, value, f"a whole number from 1 to {limit:,}")
    if type(config.n_head) is not int or config.n_head < 1 or config.n_embd % config.n_head:
        raise _wrong("n_head", config.n_head, f"a divisor of n_embd={config.n_embd}")
    if _count_params(config) > _MAX_PARAMS:
        raise ConfigError(
            "the sizes together make a model that is too large",
            got=f"{_count_params(config):,} parameters",
            expected=f"at most {_MAX_PARAMS:,}",
        )


def _check_values(config: GPT2Config) -> None:
    for name in _FLAGS:
        if type(getattr(config, name)) is not bool:
            raise _wrong(name, getattr(config, name), "true or false")
    for name in _FRACTIONS:
        value = getattr(config, name)
        if type(value) not in (int, float) or not 0 <= value <= 1:  # NaN fails every comparison
            raise _wrong(name, value, "a number from 0 to 1")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        ids = value if name == "eos_token_id" and isinstance(value, tuple) else (value,)
        # Not held to vocab_size: checkpoints with a small vocabulary often keep 50256 here and never emit it.
        if not all(one is None or (type(one) is int and -1 <= one < 1 << 31) for one in ids):
            raise _wrong(name, value, "a token id or null")
    if not isinstance(config.activation_function, str) or config.activation_function not in ACTIVATIONS:
        near = difflib.get_close_matches(str(config.activation_function)[:80], ACTIVATIONS, n=1)
        hint = {"hint": f"did you mean {near[0]!r}?"} if near else {}
        raise _wrong(
            "activation_function", config.activation_function, "one of " + ", ".join(ACTIVATIONS), **hint
        )


def _check_extra(config: GPT2Config) -> None:
    extra = config.extra
    for name, (harmless, meaning) in _UNSUPPORTED.items():
        if name in extra and not harmless(extra[name]):
            raise _wrong(name, extra[name], "null or absent", likely=f"this asks for {meaning}")
    if extra.get("model_type", "gpt2") != "gpt2":
        raise _wrong("model_type", extra["model_type"], '"gpt2"', likely="this is another architecture")
    architectures = extra.get("architectures") or []
    if not isinstance(architectures, (list, tuple)) or not all(
        isinstance(name, str) and name.startswith("GPT2") and "Custom" not in name for name in architectures
    ):
        raise ConfigError(
            "architectures",
            got=str(architectures)[:80],
            expected='["GPT2LMHeadModel"] or another of GPT-2\'s',
        )
    classes = extra.get("auto_map") or {}
    if not isinstance(classes, Mapping) or any("Tokenizer" not in str(key) for key in classes):
        raise ConfigError(
            "auto_map names the model's own Python code",
            expected="a plain GPT-2",
            likely="the model computes something else than a GPT-2 does; a model's own code is never run",
        )


def _from_mapping(raw: dict[str, Any]) -> GPT2Config:
    known = {f.name for f in fields(GPT2Config)} - {"extra"}
    if not raw.keys() & ({"model_type"} | known | _ALIASES.keys()):
        raise ConfigError(
            "none of the fields of a GPT-2 is here",
            got=", ".join(str(key)[:40] for key in list(raw)[:6]) or "an empty object",
            expected='"model_type": "gpt2" and sizes such as n_embd and n_layer',
        )
    for alias, name in _ALIASES.items():
        if alias in raw:
            value = raw.pop(alias)
            if name in raw and raw[name] != value:
                raise _wrong(alias, value, f"{raw[name]}", source=f"{name} of the same file")
            raw[name] = value
    values = {name: raw.pop(name) for name in known & raw.keys()}
    if isinstance(values.get("eos_token_id"), list):
        values["eos_token_id"] = tuple(values["eos_token_id"])
    extra = {key: value for key, value in raw.items() if key not in _WRITTEN or _WRITTEN[key] != value}
    config = GPT2Config(**values, extra=extra)
    for name, same_as in _SAME:
        value = getattr(config, same_as)
        if extra.get(name) is not None and extra[name] != value:
            raise _wrong(name, extra[name], f"{value}", source=f"{same_as} of the same file")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ConfigError(f"the key {next(k for k in keys if keys.count(k) > 1)[:80]!r} occurs twice")
        return out

    def refuse(name: str) -> Any:
        raise ConfigError(f"{name} is not a JSON number")

    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise ConfigError("the file is too large", expected=f"at most {_MAX_JSON_BYTES:,} bytes")
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError("there is no such file", hint="name a directory that holds config.json") from None
    except OSError as error:
        raise ConfigError("the file cannot be read", got=error.strerror) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ConfigError("this is not JSON", likely=reason) from None
    if not isinstance(raw, dict):
        raise ConfigError("this is not a JSON object", got=type(raw).__name__)
    return raw


KNOWN_SIZES: Mapping[str, GPT2Config] = MappingProxyType(
    {
        "gpt2": GPT2Config(),
        "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
        "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
        "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        "distilgpt2": GPT2Config(n_layer=6),
    }
)
"""The released sizes by their usual names (Radford et al. 2019, table 2; distilgpt2 by Hugging Face)."""


def known_size(n_embd: int, n_layer: int | None = None) -> str | None:
    """The released size with this width (and depth), or None. For error messages."""
    for name, config in KNOWN_SIZES.items():
        if config.n_embd == n_embd and (n_layer is None or config.n_layer == n_layer):
            return name
    return None
