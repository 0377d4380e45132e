"""From a name to a model that answers: find the files, check them, hand their tensors to the native engine.

Tensors are mapped, not copied, where the file has the dtype that is asked for. Knows the readers
(gpt2.weights) and the native engine, nothing of generation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy.typing as npt

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.engine.model import LanguageModel
from gpt2.engine.tensors import WeightsDtype, native_tensors
from gpt2.errors import ConfigError, InvalidRequest
from gpt2.tokenizer import Tokenizer
from gpt2.weights import infer_config, open_weights
from gpt2.weights.hub import resolve

CacheDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "int8"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    weights: WeightsDtype = "auto",
    cache: CacheDtype = "auto",
    threads: int | None = None,
    isa: str | None = None,
) -> LanguageModel:
    """Load a model. None is the bundled one.

    Args:
        model: a model directory, a weights file beside its config.json, or a hub id such as
            "openai-community/gpt2" (taken from the cache when it is there, otherwise downloaded).
        weights: how the matrices are kept. "auto" keeps float32, bfloat16, int8 and int4 as the file has
            them and widens float16 (exactly). "bfloat16" rounds to nearest even; "int8" and "int4" round as
            `gpt2 quantize` does, and compute with int8 activations.
        cache: how the keys and values of attention are kept. "bfloat16" halves and "int8" (with a scale
            per position and head) quarters the memory and the traffic, and changes the logits a little.
            "auto" is int8 beside int8 and int4 weights, whose activations are 8 bits wide anyway, and
            float32 beside floats.
        threads: how many threads compute, this one included; None is every processor that the process may
            use. The result does not depend on it.
        isa: "auto", "generic", "avx2", "avx512" or "neon"; None is the environment's GPT2_ISA, or "auto".

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
    config, tensors, dtype = _read(path, folder, weights)
    tokenizer = _tokenizer(folder, config)
    native = _native.Engine(
        _native_config(config, _cache_dtype(cache, dtype)),
        tensors,
        isa if isa is not None else os.environ.get("GPT2_ISA", "auto"),
        count,
    )
    return LanguageModel(
        config=config,
        tokenizer=tokenizer,
        native=native,
        name=str(model) if model is not None else "demo",
        path=path,
        weights=dtype,
    )


def _cache_dtype(cache: CacheDtype, weights: str) -> str:
    if cache != "auto":
        return cache
    return "int8" if weights in ("int8", "int4") else "float32"


def _thread_count(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InvalidRequest("threads", got=repr(threads), expected="a whole number from 1 to 1024, or None")
    return threads


def _read(
    path: Path, folder: Path, weights: WeightsDtype
) -> tuple[GPT2Config, dict[str, npt.NDArray[Any]], str]:
    """The config, the arrays that the native engine takes, and the dtype that they have."""
    if (folder / "config.json").is_file():
        config = GPT2Config.from_json(folder / "config.json")
        opened = open_weights(path, config)
    else:
        opened = open_weights(path)
        config = infer_config(opened).config
        opened = open_weights(path, config)
    return config, *native_tensors(opened, config, weights)


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
