"""A short run of both fuzz targets; the minute-long form is a command (fuzz_safetensors.py,
fuzz_torch.py)."""

from __future__ import annotations

import importlib.util

import pytest

from gpt2.weights import read_safetensors
from weights import fuzz_safetensors, fuzz_torch, fuzzing

SEED = 20190214


def test_safetensors() -> None:
    library = importlib.util.find_spec("safetensors") is not None
    check = fuzz_safetensors.same_as_the_library if library else None
    outcomes = fuzzing.run(fuzz_safetensors.make, seed=SEED, inputs=3000, check=check)
    assert outcomes["accepted"] > 100, outcomes
    assert outcomes["CorruptFile"] > 1000, outcomes


def test_torch() -> None:
    outcomes = fuzzing.run(fuzz_torch.make, seed=SEED, inputs=3000)
    assert outcomes["accepted"] > 100, outcomes
    assert outcomes["CorruptFile"] > 1000, outcomes
    assert outcomes["UnsafeFile"] > 100, outcomes


def test_inputs_follow_from_the_seed() -> None:
    import random

    for target in (fuzz_safetensors, fuzz_torch):
        once = [target.make(random.Random(f"1:{i}")) for i in range(50)]
        assert once == [target.make(random.Random(f"1:{i}")) for i in range(50)]


def test_the_loop_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> object:
        read_safetensors(path)  # type: ignore[arg-type]
        raise IndexError("as a careless parser would")

    monkeypatch.setattr(fuzzing, "open_weights", broken)
    with pytest.raises(AssertionError, match="--seed 3 --first"):
        fuzzing.run(fuzz_safetensors.make, seed=3, inputs=200)
