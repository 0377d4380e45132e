"""Placeholder until the reader stands."""

from __future__ import annotations

import os

from gpt2.errors import WeightsError
from gpt2.weights.tensor import Weights


def read_torch_zip(path: str | os.PathLike[str]) -> Weights:
    """Not there yet."""
    raise WeightsError("torch files cannot be read yet", where=str(path))
