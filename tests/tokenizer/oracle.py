"""The same vocabulary in other people's hands: tiktoken, Hugging Face tokenizers and transformers.

Each function skips the test where the package is absent (`pip install -e '.[dev]'`).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from gpt2.tokenizer import Tokenizer
from machine import need

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Encode = Callable[[str], list[int]]


def package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        need(False, f"{name} is not installed: pip install -e '.[dev]'")
        raise


def by_tiktoken(tokenizer: Tokenizer) -> Encode:
    """tiktoken with the tokens of `tokenizer`: its ranks are the ids, which is right where merges have
    ascending ids."""
    special = set(tokenizer.special_tokens.values())
    ranks = {tokenizer.token_bytes(i): i for i in range(len(tokenizer)) if i not in special}
    encoding = package("tiktoken").Encoding(
        "oracle", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens
    )
    encode: Encode = encoding.encode_ordinary
    return encode


def by_tiktoken_from_files(folder: Path) -> Encode:
    """tiktoken as it reads encoder.json and vocab.bpe itself."""
    load = package("tiktoken.load")
    ranks = load.data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    special = {"<|endoftext|>": len(ranks)}
    encoding = package("tiktoken").Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    encode: Encode = encoding.encode_ordinary
    return encode


def by_tokenizers(folder: Path) -> Encode:
    """Hugging Face tokenizers from tokenizer.json."""
    encoder = package("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(encoder.encode(text, add_special_tokens=False).ids)


def by_transformers(vocab: Path, merges: Path) -> Encode:
    """transformers' GPT2Tokenizer from vocab.json and merges.txt."""
    transformers = package("transformers")
    with vocab.open(encoding="utf-8") as file:
        tokens = json.load(file)
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    try:
        encoder = transformers.GPT2Tokenizer(vocab=tokens, merges=pairs)
    except TypeError:  # before transformers 5 it took the files
        encoder = transformers.GPT2Tokenizer(str(vocab), str(merges))
    return lambda text: list(encoder.encode(text, add_special_tokens=False))


def first_difference(ours: list[int], theirs: list[int]) -> str:
    """Where two lists of ids part, for the message of a failing test."""
    if ours == theirs:
        return "equal"
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return f"differ at token {at}: ours {ours[at : at + 6]}, theirs {theirs[at : at + 6]}"
