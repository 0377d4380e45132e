"""What a saved session must find again to go on with the same bits: the model's files, how its numbers are
kept, and the arithmetic of the build.

Arithmetic is compared by what it computes: a fixed text goes through the whole model and the sampler, and
the bits of the result are hashed. A build whose compiler or mathematical library rounds otherwise, or an
instruction set with bits of its own, has another number; one that computes the same has the same, whatever
its version is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2 import _native
from gpt2.decoding import SamplingParams
from gpt2.engine.native_params import native_params
from gpt2.weights.fingerprint import fingerprint

if TYPE_CHECKING:
    from gpt2.engine.model import LanguageModel

PROBE_TOKENS, PROBE_DRAWS = 80, 16
"""More than a block of the cache, so that attention over several is part of it."""

# What decides what a model computes and how it reads; a README or a card does not.
_COUNTED = (".safetensors", ".bin", ".pt", ".pth", ".bpe", ".index.json")
_COUNTED_NAMES = ("config.json", "tokenizer.json", "vocab.json", "encoder.json", "merges.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Of one loaded model."""

    name: str
    """What load() was asked for; for people."""
    made_by: str
    """Version and instruction set; for people."""
    files: dict[str, str]
    """SHA-256 of each file that counts."""
    weights: str
    cache: str
    vocab_size: int
    n_positions: int
    arithmetic: str
    """Hash of what it computes."""

    def differences(self, saved: Identity) -> list[str]:
        """In words, what of `saved` is otherwise here; empty where a session may go on."""
        found = []
        for field in ("weights", "cache", "vocab_size", "n_positions"):
            mine, theirs = getattr(self, field), getattr(saved, field)
            if mine != theirs:
                found.append(f"{field}: saved with {theirs}, here {mine}")
        for file in sorted({*self.files, *saved.files}):
            mine, theirs = self.files.get(file, "absent"), saved.files.get(file, "absent")
            if mine != theirs:
                found.append(f"{file}: saved with {theirs[:12]}, here {mine[:12]}")
        if not found and self.arithmetic != saved.arithmetic:
            found.append(
                f"arithmetic: saved with {saved.arithmetic[:12]} ({saved.made_by}), "
                f"here {self.arithmetic[:12]} ({self.made_by})"
            )
        return found


def identity(model: LanguageModel) -> Identity:
    """Reads every byte of the weights: 500 MB take about a second."""
    import gpt2

    return Identity(
        name=model.name,
        made_by=f"gpt2 {gpt2.__version__}, {model.isa}",
        files=_files(model.path),
        weights=model.weights,
        cache=model.cache,
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        arithmetic=_arithmetic(model),
    )


def _files(path: Path) -> dict[str, str]:
    folder = path if path.is_dir() else path.parent
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    counted = [name for name in names if name in _COUNTED_NAMES or name.endswith(_COUNTED)]
    if not path.is_dir():  # of the weights beside it, this file alone was loaded
        counted = [name for name in counted if name in _COUNTED_NAMES or name == path.name]
    return {name: fingerprint(folder / name).files[name] for name in counted}


def _arithmetic(model: LanguageModel) -> str:
    import hashlib

    v = model.config.vocab_size
    i = np.arange(min(PROBE_TOKENS, model.config.n_positions), dtype=np.int64)
    ids = ((i * i * 31 + i * 7 + 3) % v).astype(np.int32)
    logits = model.logits(ids, first=ids.size - 1)[0]  # [V]
    digest = hashlib.sha256(logits.astype("<f4").tobytes())
    sampler = _native.Sampler(v)
    params = native_params(SamplingParams(temperature=0.8, top_p=0.9, logprobs=0), 0, frozenset())
    for draw in range(PROBE_DRAWS):
        token, logprob, *_ = sampler.next(logits, params, ids, draw)
        digest.update(struct.pack("<id", token, logprob))
    return digest.hexdigest()
