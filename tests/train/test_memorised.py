"""What counts as memorised, against a search that anybody can read."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2.train.memorised import memorised


def by_hand(texts: list[list[int]], training: list[int], span: int) -> tuple[int, int]:
    """(tokens in stretches of at least `span`, the longest stretch)"""
    inside = longest = 0
    for text in texts:
        covered = set()
        for start in range(len(text)):
            for end in range(start + span, len(text) + 1):
                piece = text[start:end]
                if any(training[i : i + len(piece)] == piece for i in range(len(training))):
                    covered |= set(range(start, end))
                    longest = max(longest, len(piece))
        inside += len(covered)
    return inside, longest


@pytest.mark.parametrize("seed", range(6))
def test_it_is_a_search_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    training = rng.integers(0, 3, 60)
    texts = [rng.integers(0, 3, int(n)).tolist() for n in rng.integers(0, 25, 4)]
    texts.append([*training[10:22].tolist(), 9, *training[40:47].tolist()])
    found = memorised(texts, training, span=5)
    assert (found.in_spans, found.longest) == by_hand(texts, training.tolist(), 5)
    assert found.tokens == sum(map(len, texts))


def test_where_the_longest_is() -> None:
    training = np.arange(1000)
    found = memorised([[5, 5, 5], [7, *range(100, 150), 3]], training, span=32)
    assert (found.in_spans, found.longest, found.longest_at) == (50, 50, (1, 1))
    assert found.share == pytest.approx(50 / 55)


def test_nothing_to_find() -> None:
    for texts, training in (
        ([], np.arange(50)),
        ([[1, 2]], np.arange(3)),
        ([[1] * 40], np.zeros(0, np.int64)),
    ):
        found = memorised(texts, training)
        assert (found.in_spans, found.longest, found.longest_at) == (0, 0, None)
