"""From a name to a model that answers: find the files, check them, hand their tensors to the native engine.

Tensors are mapped, not copied, where the file has the dtype that is asked for. Knows the readers
(gpt2.weights) and the native engine, nothing of generation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy.typing as npt

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.engine.checks import whole
from gpt2.engine.model import LanguageModel
from gpt2.engine.tensors import WeightsDtype, native_tensors
from gpt2.errors import ConfigError, InvalidRequest
from gpt2.tokenizer import Tokenizer
from gpt2.weights import Weights, infer_config, open_weights
from gpt2.weights.hub import resolve

CacheDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "int8"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    weights: WeightsDtype = "auto",
    cache: CacheDtype = "auto",
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    isa: str | None = None,
    cache_bytes: int | None = None,
    max_batch: int = 256,
    max_queue: int = 1024,
    step_tokens: int = 256,
    prefix_cache: bool = True,
) -> LanguageModel:
    """Load a model. None is the bundled one.

    Args:
        model: a model directory, a weights file beside its config.json, or a hub id such as
            "openai-community/gpt2" (taken from the cache when it is there, otherwise downloaded).
        weights: how the matrices are kept. "auto" keeps float32, bfloat16, int8 and int4 as the file has
            them, widens float16 (exactly), and computes floats with float32 activations. "bfloat16" rounds to
            nearest even, and where the processor multiplies bfloat16 faster than float32 (AMD since Zen 4)
            activations are rounded, too, so that its bits are those of such processors alone. "int8" and
            "int4" round as `gpt2 quantize` does, and compute with int8 activations.
        cache: how the keys and values of attention are kept. "bfloat16" halves and "int8" (with a scale
            per position and head) quarters the memory and the traffic, and changes the logits a little.
            "auto" is int8 beside int8 and int4 weights, whose activations are 8 bits wide anyway, and
            float32 beside floats.
        threads: how many threads compute, this one included; None is every processor that the process may
            use. The result does not depend on it.
        cpus: pin the engine's own threads to these processors, one each; the thread that calls is the
            caller's to pin. None leaves them to the operating system.
        isa: "auto", "generic", "avx2", "avx512", "avx512bf16", "amx" or "neon"; None is GPT2_ISA, or "auto",
            which means "avx512bf16" only beside weights="bfloat16", and never "amx".
        cache_bytes: memory for keys and values, at most; it is taken as it is needed and then kept. None is a
            quarter of the memory that is available now, and at least what one full window needs.
        max_batch: alternatives that are computed together, 1 to 256; more wait in the queue.
        max_queue: alternatives that may wait there; one more is Overloaded.
        step_tokens: tokens of one step, 1 to 256. With fewer a long prompt delays the others less, and takes
            longer itself.
        prefix_cache: keep the keys and values of prompts for others that begin with the same tokens, as long
            as nothing else needs the memory. The result does not depend on it.

    Raises:
        ModelNotFound, HubError, ConfigError, WeightsError, TokenizerError, EngineError, InvalidRequest.
    """
    if weights not in get_args(WeightsDtype):
        raise InvalidRequest("weights", got=repr(weights), expected=" | ".join(get_args(WeightsDtype)))
    if cache not in get_args(CacheDtype):
        raise InvalidRequest("cache", got=repr(cache), expected=" | ".join(get_args(CacheDtype)))
    count = _thread_count(threads)
    path = Path(resolve(os.fspath(model) if model is not None else None))
    folder = path if path.is_dir() else path.parent
    config, opened, (tensors, dtype) = _read(path, folder, weights)
    tokenizer = _tokenizer(folder, config)
    native = _native.Engine(
        _native_config(config, _cache_dtype(cache, dtype)),
        tensors,
        {
            "isa": isa if isa is not None else os.environ.get("GPT2_ISA", "auto"),
            "rounding": weights == "bfloat16",
            "threads": count,
            "cpus": _cpus(cpus),
            "cache_bytes": whole("cache_bytes", cache_bytes, 1, 2**62) if cache_bytes is not None else 0,
            "available_bytes": available_bytes(),
            "max_batch": whole("max_batch", max_batch, 1, 256),
            "max_queue": whole("max_queue", max_queue, 0, 2**20),
            "step_tokens": whole("step_tokens", step_tokens, 1, 256),
            "prefix_cache": bool(prefix_cache),
            "mapped": [file.span for file in opened.mapped_files],
        },
    )
    return LanguageModel(
        config=config,
        tokenizer=tokenizer,
        native=native,
        name=str(model) if model is not None else "demo",
        path=path,
        weights=dtype,
        cache=_cache_dtype(cache, dtype),
    )


def _cache_dtype(cache: CacheDtype, weights: str) -> str:
    if cache != "auto":
        return cache
    return "int8" if weights in ("int8", "int4") else "float32"


def _thread_count(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole("threads", threads, 1, 1024, or_none=True)


def _cpus(cpus: object) -> list[int]:
    if cpus is None:
        return []
    if isinstance(cpus, (str, bytes)) or not isinstance(cpus, Sequence) or len(cpus) == 0:
        raise InvalidRequest("cpus", got=repr(cpus), expected="numbers of processors, at least one, or None")
    return [whole("cpus", cpu, 0, 2**20) for cpu in cpus]


def available_bytes() -> int:
    """Memory that new allocations may take without swapping: what Linux estimates, or else half of what the
    machine has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _read(
    path: Path, folder: Path, weights: WeightsDtype
) -> tuple[GPT2Config, Weights, tuple[dict[str, npt.NDArray[Any]], str]]:
    """The config, the open files, the arrays that the native engine takes, and the dtype that they have."""
    if (folder / "config.json").is_file():
        config = GPT2Config.from_json(folder / "config.json")
        opened = open_weights(path, config)
    else:
        opened = open_weights(path)
        config = infer_config(opened).config
        opened = open_weights(path, config)
    return config, opened, native_tensors(opened, config, weights)


def _native_config(config: GPT2Config, cache: str) -> dict[str, Any]:
    return {
        "cache": cache,
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.inner,
        "activation": config.activation,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _tokenizer(folder: Path, config: GPT2Config) -> Tokenizer | None:
    """The directory's tokenizer; None when it has none (then only ids can be used)."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            "the vocabulary does not fit the embedding",
            where=str(folder),
            got=f"a tokenizer of {tokenizer.vocab_size:,} tokens",
            expected=f"at most {config.vocab_size:,}",
            source=f"config.json (vocab_size={config.vocab_size})",
            likely="the tokenizer files belong to another model",
        )
    return tokenizer
