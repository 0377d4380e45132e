"""The adapters of one loaded model: by name, loaded and unloaded while requests run.

A request takes its adapter when it begins and keeps it to its end, whatever happens to the name meanwhile.
How an adapter is read is weights/adapters.py, how it is computed native/model/adapter.h; this keeps names.
"""

from __future__ import annotations

import difflib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest
from gpt2.weights.adapters import Adapter, check_adapter, read_adapter

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """One loaded adapter."""

    name: str
    """By which requests ask for it."""
    path: Path | None
    """Where it came from; None for one that was given as arrays."""
    base: str | None
    """The model that it was made for, as its maker named it."""
    rank: int
    """The largest of its matrices."""
    targets: tuple[str, ...]
    """Which matrices of a block it changes: attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj."""
    dora: bool
    n_params: int
    bytes: int
    """Memory that it takes while it is loaded."""
    hash: str
    """SHA-256 of what it computes."""


class Adapters:
    """Names and what they stand for. Safe to use from any number of threads."""

    def __init__(self, native: _native.Engine, config: GPT2Config) -> None:
        self._native = native
        self._config = config
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[AdapterInfo, _native.Adapter]] = {}

    @property
    def infos(self) -> dict[str, AdapterInfo]:
        with self._lock:
            return {name: info for name, (info, _) in self._loaded.items()}

    def load(self, source: str | os.PathLike[str] | Adapter, name: str | None) -> AdapterInfo:
        if isinstance(source, Adapter):
            path, adapter = None, source
            check_adapter(adapter, self._config)
            name = name if name is not None else "adapter"
        else:
            path = Path(source)
            name = name if name is not None else path.resolve().name
            self._require_free(name)
            adapter = read_adapter(path, self._config)
        self._require_free(name)
        native = self._native.adapter(*_native_form(adapter), adapter.hash())
        info = AdapterInfo(
            name=name, path=path, base=adapter.base, rank=adapter.rank, targets=adapter.targets,
            dora=adapter.dora, n_params=adapter.n_params, bytes=native.bytes, hash=adapter.hash(),
        )  # fmt: skip
        with self._lock:
            if name in self._loaded:
                raise _taken(name)
            self._loaded[name] = (info, native)
        return info

    def unload(self, name: str) -> _native.Adapter:
        """Forget a name; what it stood for."""
        with self._lock:
            self._require(name)
            return self._loaded.pop(name)[1]

    def get(self, name: str | None) -> _native.Adapter | None:
        """What a request is given. Raises InvalidRequest for a name that is not loaded."""
        if name is None:
            return None
        with self._lock:
            return self._require(name)[1]

    def info(self, name: str | None) -> AdapterInfo | None:
        if name is None:
            return None
        with self._lock:
            return self._require(name)[0]

    def _require(self, name: str) -> tuple[AdapterInfo, _native.Adapter]:
        found = self._loaded.get(name) if isinstance(name, str) else None
        if found is None:
            near = difflib.get_close_matches(str(name), self._loaded, n=1)
            raise InvalidRequest(
                "no adapter of this name is loaded", got=repr(name)[:_LONGEST_NAME],
                expected=" | ".join(self._loaded) or None,
                hint=f"did you mean {near[0]!r}?" if near else "load_adapter(path, name)",
            )  # fmt: skip
        return found

    def _require_free(self, name: str) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            expected = f"1 to {_LONGEST_NAME} printable characters"
            raise InvalidRequest("an adapter's name", got=repr(name)[:_LONGEST_NAME], expected=expected)
        with self._lock:
            if name in self._loaded:
                raise _taken(name)


def _taken(name: str) -> InvalidRequest:
    return InvalidRequest(
        "an adapter of this name is loaded already", got=repr(name),
        hint=f"unload_adapter({name!r}), or load_adapter(path, name=...)",
    )  # fmt: skip


def _native_form(adapter: Adapter) -> tuple[dict[str, Any], dict[str, float]]:
    """The arrays by name, and the scales of the matrices."""
    tensors: dict[str, Any] = {}
    for name, module in adapter.modules.items():
        tensors[f"{name}.lora_A"] = np.ascontiguousarray(module.a, np.float32)
        tensors[f"{name}.lora_B"] = np.ascontiguousarray(module.b, np.float32)
        if module.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = np.ascontiguousarray(module.magnitude, np.float32)
    return tensors, {name: module.scale for name, module in adapter.modules.items()}
