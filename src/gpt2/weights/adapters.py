"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, by numpy alone.

An adapter changes some of the four matrices of a block without touching them (Hu et al. 2021,
arXiv:2106.09685). Where y = x W + b stood,

    y = x (W + s A^T B^T) + b          A [r, in], B [out, r], s = alpha / r  (rsLoRA: alpha / sqrt(r))

and with a magnitude m [out] (DoRA, Liu et al. 2024, arXiv:2402.09353) each column of V = W + s A^T B^T gets
the length that m says:

    y = x (V m / |V|) + b              |V| [out], the Euclidean lengths of V's columns

A and B are stored as PyTorch's Linear stores its weights, whatever the base does. docs/formats/adapter.md
says which files are accepted. Knows the names and shapes of a GPT-2's matrices (names.py); trains nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest, ModelNotFound, WeightsError
from gpt2.weights.adapter_config import FILE, MAX_RANK, AdapterConfig, read_adapter_config
from gpt2.weights.names import expected_shapes
from gpt2.weights.opening import reader_of
from gpt2.weights.safetensors import _write_atomically, save_safetensors
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import FLOATS, Tensor

Floats = NDArray[np.float32]

LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""The four matrices of a block, by the ends of their names."""

_TENSORS = ("adapter_model.safetensors", "adapter_model.bin")
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<prefix>transformer\.)?(?P<module>h\.(?P<layer>\d{1,4})\."
    r"(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))\."
    r"(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?"
)
_PREFIX = "base_model.model.transformer."


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What is added to one matrix [in, out]."""

    a: Floats
    """[r, in]."""
    b: Floats
    """[out, r]."""
    alpha: float
    rslora: bool = False
    magnitude: Floats | None = None
    """[out]: the lengths of the columns (DoRA); None leaves them alone."""

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def scale(self) -> float:
        """s: what A^T B^T is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def delta(self) -> NDArray[np.float64]:
        """s A^T B^T, [in, out]."""
        product: NDArray[np.float64] = self.a.T.astype(np.float64) @ self.b.T.astype(np.float64)
        return self.scale * product


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The changes of some matrices of one model, by their names without ".weight": "h.0.attn.c_attn" ..."""

    modules: Mapping[str, LowRank]
    dropout: float = 0.0
    """That it was trained with; nothing else uses it."""
    base: str | None = None
    """The model that it belongs to, as its maker named it."""

    @property
    def dora(self) -> bool:
        return any(module.magnitude is not None for module in self.modules.values())

    @property
    def rank(self) -> int:
        """The largest."""
        return max(module.rank for module in self.modules.values())

    @property
    def n_params(self) -> int:
        return sum(
            m.a.size + m.b.size + (0 if m.magnitude is None else m.magnitude.size)
            for m in self.modules.values()
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Which of LINEARS it changes, in some block."""
        ends = {name.split(".", 2)[2] for name in self.modules}
        return tuple(linear for linear in LINEARS if linear in ends)

    def hash(self) -> str:
        """SHA-256 of what it computes: two adapters with the same one are the same function."""
        import hashlib  # costs 5 ms, which loading a model need not wait for

        digest = hashlib.sha256()
        for name in sorted(self.modules):
            module = self.modules[name]
            digest.update(f"{name} {module.a.shape} {module.b.shape} {module.scale!r}\n".encode())
            for part in (module.a, module.b, module.magnitude):
                digest.update(b"-" if part is None else np.ascontiguousarray(part, "<f4").tobytes())
        return digest.hexdigest()


def linear_shapes(config: GPT2Config) -> dict[str, tuple[int, int]]:
    """(in, out) of each matrix that an adapter may change, by its name without ".weight"."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in expected_shapes(config).items()
        if name.startswith("h.") and len(shape) == 2
    }


def check_adapter(adapter: Adapter, config: GPT2Config, where: str | None = None) -> None:
    """Hold an adapter to the model that it is to change. Raises WeightsError, which names the tensor."""
    if not adapter.modules:
        raise WeightsError("the adapter changes nothing", where=where, expected="at least one matrix")
    shapes = linear_shapes(config)
    for name, module in adapter.modules.items():
        if name not in shapes:
            raise WeightsError(
                f"the adapter changes {clip(name)}, which the model does not have",
                where=where, expected=f"matrices of {config.n_layer} blocks", source="config.json (n_layer)",
                likely="the adapter belongs to another model",
            )  # fmt: skip
        inputs, outputs = shapes[name]
        _check_rank(name, module, where)
        parts: dict[str, tuple[Floats, tuple[int, ...]]] = {
            "lora_A": (module.a, (module.rank, inputs)),
            "lora_B": (module.b, (outputs, module.rank)),
        }
        if module.magnitude is not None:
            parts["lora_magnitude_vector"] = (module.magnitude, (outputs,))
        for part, (array, shape) in parts.items():
            _check_part(f"{name}.{part}", array, shape, where)
    if len({module.magnitude is None for module in adapter.modules.values()}) > 1:
        raise WeightsError(
            "some matrices of the adapter have a magnitude and others have none",
            where=where, expected="all (DoRA) or none (LoRA)",
        )  # fmt: skip


def _check_rank(name: str, module: LowRank, where: str | None) -> None:
    if module.a.ndim != 2 or not 1 <= module.rank <= MAX_RANK:
        raise WeightsError(
            f'tensor "{name}.lora_A"', where=where, got=f"shape {list(module.a.shape)}",
            expected=f"[r, inputs], with a rank r from 1 to {MAX_RANK}",
        )  # fmt: skip
    if not math.isfinite(module.alpha):
        raise WeightsError(f"alpha of {name}", where=where, got=module.alpha, expected="a finite number")


def _check_part(name: str, array: Floats, shape: tuple[int, ...], where: str | None) -> None:
    if array.shape != shape:
        raise WeightsError(
            f'tensor "{name}" does not fit the model', where=where, got=f"shape {list(array.shape)}",
            expected=f"shape {list(shape)}", source="config.json and the adapter's rank",
            likely="the adapter belongs to another model, or its two matrices to two adapters",
        )  # fmt: skip
    finite = np.isfinite(array)
    if not finite.all():
        at = [int(i) for i in np.unravel_index(int((~finite).argmax()), array.shape)]
        raise WeightsError(
            f'tensor "{name}" has a value that is not finite', where=where, got=f"{array[tuple(at)]} at {at}"
        )


# --- reading ---


def read_adapter(path: str | os.PathLike[str], config: GPT2Config) -> Adapter:
    """Read a directory that PEFT (or save_adapter) wrote for a model of this config.

    The tensors become float32 copies; widening float16 and bfloat16 is exact. Raises ModelNotFound (no
    adapter there), CorruptFile, UnsafeFile, ConfigError (a setting that is not supported, by name),
    WeightsError (tensors that do not fit).
    """
    folder = Path(path)
    if folder.is_file() and folder.name in (FILE, *_TENSORS):
        folder = folder.parent
    settings = read_adapter_config(folder)
    file = next((folder / name for name in _TENSORS if (folder / name).is_file()), None)
    if file is None:
        raise ModelNotFound("the adapter has no tensors", where=str(folder), expected=" or ".join(_TENSORS))
    tensors = reader_of(file)(file)
    try:
        parts, prefix = _sorted_parts(tensors, str(file))
        modules = {
            name: _low_rank(name, found, settings, f"{prefix}{name}", str(file))
            for name, found in parts.items()
        }
    finally:
        tensors.close()
    adapter = Adapter(modules=modules, dropout=settings.dropout, base=settings.base)
    check_adapter(adapter, config, str(file))
    _check_named(adapter, settings, config, prefix, str(folder / FILE))
    return adapter


def _sorted_parts(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, dict[str, Tensor]], str]:
    """For each module its tensors by their part's name; and what stands before "h.0" in the base's names."""
    parts: dict[str, dict[str, Tensor]] = {}
    prefix = ""
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise WeightsError(
                f"tensor {clip(name)} is no part of an adapter that can be used here", where=where,
                expected="lora_A, lora_B or lora_magnitude_vector of " + ", ".join(LINEARS),
                likely=_stranger(name),
            )  # fmt: skip
        prefix = match["prefix"] or ""
        module = f"h.{int(match['layer'])}.{match['module'].split('.', 2)[2]}"
        found = parts.setdefault(module, {})
        if match["part"] in found:
            raise WeightsError(f"two tensors are both {module}.{match['part']}", where=where, got=clip(name))
        found[match["part"]] = tensor
    return parts, prefix


def _stranger(name: str) -> str:
    if "lora_embedding" in name:
        return "the embedding was adapted, too"
    if "modules_to_save" in name or "lora_" not in name:
        return "whole matrices were trained beside the adapter (modules_to_save)"
    return "the adapter belongs to another architecture"


def _low_rank(
    name: str, found: Mapping[str, Tensor], settings: AdapterConfig, full_name: str, where: str
) -> LowRank:
    wanted = ["lora_A", "lora_B"] + (["lora_magnitude_vector"] if settings.dora else [])
    for part in wanted:
        if part not in found:
            raise WeightsError(
                f'tensor "{name}.{part}" is missing', where=where, got=", ".join(sorted(found)),
                expected=", ".join(wanted), source=f"{FILE} (use_dora={str(settings.dora).lower()})",
            )  # fmt: skip
    if not settings.dora and "lora_magnitude_vector" in found:
        raise WeightsError(
            f'tensor "{name}.lora_magnitude_vector" is there, and {FILE} has no "use_dora"', where=where
        )
    arrays = {part: _floats(tensor) for part, tensor in found.items()}
    module = LowRank(
        a=arrays["lora_A"], b=arrays["lora_B"], alpha=float(settings.alpha_of(full_name)),
        rslora=settings.rslora, magnitude=_vector(arrays.get("lora_magnitude_vector")),
    )  # fmt: skip
    _check_rank(name, module, where)
    if module.rank != settings.rank_of(full_name):
        raise WeightsError(
            f'tensor "{name}.lora_A" has another rank than the config', where=where, got=module.rank,
            expected=settings.rank_of(full_name), source=f"{FILE} (r, rank_pattern)",
        )  # fmt: skip
    return module


def _floats(tensor: Tensor) -> Floats:
    if tensor.dtype not in FLOATS:
        raise WeightsError(
            f"tensor {clip(tensor.name)} has a dtype that a parameter cannot have",
            where=tensor.file or None, got=tensor.dtype, expected=" or ".join(FLOATS),
        )  # fmt: skip
    return tensor.to_float32()


def _vector(array: Floats | None) -> Floats | None:
    """Early versions of PEFT stored DoRA's magnitude as [1, out]."""
    return array[0] if array is not None and array.ndim == 2 and array.shape[0] == 1 else array


def _check_named(
    adapter: Adapter, settings: AdapterConfig, config: GPT2Config, prefix: str, where: str
) -> None:
    """The matrices with tensors must be those that the config names: PEFT would leave out the rest."""
    for name in linear_shapes(config):
        named = settings.names(f"{prefix}{name}", int(name.split(".")[1]))
        if named is None or named == (name in adapter.modules):
            continue
        if named:
            raise WeightsError(
                f"the config names {name}, and the file has no tensors of it", where=where,
                source="target_modules", likely="a part of the adapter is missing",
            )  # fmt: skip
        raise WeightsError(
            f"the file has tensors of {name}, which the config does not name", where=where,
            source="target_modules", likely="the config belongs to another adapter",
        )  # fmt: skip


# --- writing ---


def save_adapter(path: str | os.PathLike[str], adapter: Adapter, config: GPT2Config) -> Path:
    """Write an adapter of a model of this config into a directory, for `peft` and for read_adapter.

    Each of the two files is written whole or not at all, the config last. Returns the directory. Raises
    WeightsError (it does not fit the config, or the disk), InvalidRequest (alphas that PEFT cannot express).
    """
    check_adapter(adapter, config)
    settings = _settings(adapter, config)
    tensors: dict[str, Any] = {}
    for name, module in adapter.modules.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(module.a, np.float32)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(module.b, np.float32)
        if module.magnitude is not None:
            tensors[f"{_PREFIX}{name}.lora_magnitude_vector"] = np.ascontiguousarray(
                module.magnitude, np.float32
            )
    folder = Path(path)
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_safetensors(folder / _TENSORS[0], tensors, {"format": "pt"})
        _write_atomically(folder / FILE, [text.encode("utf-8")])
    except OSError as error:
        raise WeightsError("the adapter cannot be written", where=str(folder), got=error.strerror) from None
    return folder


def _settings(adapter: Adapter, config: GPT2Config) -> dict[str, Any]:
    """adapter_config.json. The most frequent rank and alpha are the defaults; others go into the patterns."""
    modules = adapter.modules
    if len({module.rslora for module in modules.values()}) > 1:
        raise InvalidRequest("use_rslora", got="both", expected="the same for all matrices")
    rank = Counter(module.rank for module in modules.values()).most_common(1)[0][0]
    alpha = Counter(module.alpha for module in modules.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": next(iter(modules.values())).rslora,
        "use_dora": adapter.dora,
        "fan_in_fan_out": True,  # the base's matrices are Conv1D's: [in, out]
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "target_modules": _target_modules(adapter, config),
        "rank_pattern": {name: m.rank for name, m in modules.items() if m.rank != rank},
        "alpha_pattern": {name: m.alpha for name, m in modules.items() if m.alpha != alpha},
    }


def _target_modules(adapter: Adapter, config: GPT2Config) -> list[str]:
    """The ends of names where every block is changed alike, else the whole names."""
    alike = {f"h.{i}.{end}" for i in range(config.n_layer) for end in adapter.targets}
    return list(adapter.targets) if alike == set(adapter.modules) else sorted(adapter.modules)
