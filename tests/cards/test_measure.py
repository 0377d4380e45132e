"""What is measured: zero where nothing differs, and the known answer where something does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2.cards import agreement, compare, sample_ids
from machine import exact_isa


@dataclass
class Fixed:
    """A model whose logits are the same at every position."""

    row: list[float]

    def logits(self, ids: Any) -> Any:
        return np.tile(np.array(self.row, np.float32), (len(ids), 1))


def test_known_distributions() -> None:
    even, sure = Fixed([0.0, 0.0]), Fixed([np.log(3.0), 0.0])
    same = agreement(even, even, [[0, 1], [1]])  # type: ignore[arg-type]
    assert (same.tokens, same.mean_kl_bits, same.max_logit_difference, same.same_top_token) == (3, 0, 0, 1)
    far = agreement(even, sure, [[0, 1], [1]])  # type: ignore[arg-type]
    assert far.mean_kl_bits == pytest.approx(np.log2(2) - 0.5 * np.log2(3))  # E[log 0.5 - log(3/4, 1/4)]
    assert far.max_logit_difference == pytest.approx(np.log(3) / 2)
    assert agreement(Fixed([0.0, 1.0]), sure, [[0]]).same_top_token == 0  # type: ignore[arg-type]
    shifted = agreement(sure, Fixed([np.log(3.0) + 9, 9.0]), [[0]])  # type: ignore[arg-type]
    assert shifted.mean_kl_bits == pytest.approx(0, abs=1e-6)  # a constant changes no probability
    assert shifted.max_logit_difference == pytest.approx(0, abs=1e-5)


def test_of_the_bundled_model() -> None:
    isa = exact_isa()
    source, narrow = (gpt2.load(weights=dtype, threads=1, isa=isa) for dtype in ("float32", "bfloat16"))
    ids = sample_ids(source, samples=2, tokens=20)
    assert [len(text) for text in ids] == [21, 21]
    assert ids == sample_ids(source, samples=2, tokens=20)
    assert ids[0] != ids[1]
    quality = compare(source, narrow, text="It was a dark and stormy night. " * 40, samples=2)
    assert quality["text"]["bytes"] == 32 * 40
    # The bundled file is bfloat16, and widening is exact: the two are one model.
    assert quality["text"]["increase_percent"] == 0
    near = quality["on_samples_of_the_source"]
    assert (near["mean_kl_bits"], near["same_top_token"], near["samples"]) == (0, 1, 2)
    assert set(compare(source, narrow, samples=1)) == {"on_samples_of_the_source"}
