"""The identity of a model directory: the SHA-256 of every file, and one of all.

Whoever writes a card (which model was measured, which one it came from) names models by these numbers, and
whoever checks one finds any changed bit. Reads every byte: 500 MB take about a second. Knows nothing of
formats.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2.errors import ModelNotFound, WeightsError
from gpt2.weights.disk import sha256_of

# A card states the fingerprint of what it travels with, so it cannot be part of it.
NOT_COUNTED = ("card.json",)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 numbers in hexadecimal."""

    files: Mapping[str, str]
    """For each file, by its name within the directory."""
    whole: str
    """Of the lines "NAME\\0HASH\\n" of all files in order of name: one number for the model."""

    def changed(self, earlier: Fingerprint) -> tuple[str, ...]:
        """Names of the files that differ from `earlier`, those that are new or gone included."""
        names = sorted({*self.files, *earlier.files})
        return tuple(name for name in names if self.files.get(name) != earlier.files.get(name))


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Of one file, or of a model directory: its own files, not hidden ones and not its card."""
    import hashlib  # costs 5 ms, which loading a model need not wait for

    target = Path(path)
    try:
        if target.is_dir():
            names = sorted(entry.name for entry in os.scandir(target) if entry.is_file())
            names = [name for name in names if not name.startswith(".") and name not in NOT_COUNTED]
            files = {name: sha256_of(target / name) for name in names}
        else:
            files = {target.name: sha256_of(target)}
    except FileNotFoundError:
        raise ModelNotFound("there is no such file", where=str(target)) from None
    except OSError as error:
        raise WeightsError("the file cannot be read", where=str(target), got=error.strerror) from None
    whole = hashlib.sha256("".join(f"{name}\0{value}\n" for name, value in files.items()).encode("utf-8"))
    return Fingerprint(files, whole.hexdigest())
