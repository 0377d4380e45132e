"""The one checkpoint that every engine gets: random weights of a known shape in transformers' layout, and a
tokenizer.

Random weights cost what trained ones cost (no engine here skips zeros). The tokenizer is synthetic: GPT-2's
size and form (256 bytes, 50,000 merges, one end-of-text token), its merges the first pairs of bytes in
order; some engines refuse a model without one, and nothing here encodes text.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

SHAPES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1.5B": (48, 25, 1600)}
"""Layers, heads, channels."""

MERGES = 50000


def byte_symbols() -> list[str]:
    """The characters that stand for the 256 bytes in a GPT-2 vocabulary: printable ones for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt, tokenizer_config.json: what every reader of GPT-2 tokenizers knows."""
    symbols = byte_symbols()
    pairs = [(a, b) for a in symbols for b in symbols][:MERGES]
    vocabulary = [*symbols, *(a + b for a, b in pairs), "<|endoftext|>"]
    ids = {symbol: id for id, symbol in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    about |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def make(folder: Path, shape: str, seed: int = 0) -> Path:
    """The checkpoint's folder, made on the first call."""
    from gpt2.config import GPT2Config
    from gpt2.weights import save_safetensors
    from gpt2.weights.names import expected_shapes

    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    layers, heads, channels = SHAPES[shape]
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=channels)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, size in expected_shapes(config).items():
        tensors[name] = rng.standard_normal(size, dtype=np.float32)
        tensors[name] *= np.float32(0.02)
        if ".ln_" in f".{name}" and name.endswith("weight"):
            tensors[name] += np.float32(1)
    save_safetensors(folder / "model.safetensors", tensors)
    write_tokenizer(folder)
    config.save(folder)  # last: its presence says that the rest is there
    complete(folder / "config.json")
    return folder


def complete(path: Path) -> None:
    """What transformers' readers look for besides the shape; written whole or not at all."""
    config = json.loads(path.read_text()) | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    config |= {"bos_token_id": 50256, "eos_token_id": 50256, "torch_dtype": "float32"}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(config, indent=2))
    os.replace(part, path)


def decode_flops(shape: str) -> float:
    """Multiplications and additions of one token: two for each weight of a matrix (the head included)."""
    layers, _, channels = SHAPES[shape]
    return 2.0 * (layers * 12 * channels**2 + 50257 * channels)


def prefill_flops(shape: str, tokens: int) -> float:
    """Of reading a prompt: the matrices for every token, the head for the last, causal attention."""
    layers, _, channels = SHAPES[shape]
    matrices = 2.0 * layers * 12 * channels**2 * tokens
    attention = 4.0 * layers * channels * tokens * (tokens + 1) / 2
    return matrices + attention + 2.0 * 50257 * channels


def matrix_weights(shape: str) -> int:
    """Weights that one token reads: every matrix once; the embedding table is the head."""
    layers, _, channels = SHAPES[shape]
    return layers * 12 * channels**2 + 50257 * channels


def cache_values(shape: str, positions: float) -> float:
    """Elements of keys and values that attention reads for one token."""
    layers, _, channels = SHAPES[shape]
    return 2.0 * layers * channels * positions
