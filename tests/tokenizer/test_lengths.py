"""Length policies keep what they say and report exactly what they cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2.errors as errors
from gpt2.tokenizer import Tokenizer, truncate, windows
from gpt2.tokenizer.lengths import Policy

IDS = st.lists(st.integers(0, 9), max_size=30)
POLICIES = st.sampled_from(["left", "right", "middle"])


@given(ids=IDS, length=st.integers(0, 35), policy=POLICIES)
def test_what_is_cut_is_what_is_reported(ids: list[int], length: int, policy: Policy) -> None:
    result = truncate(ids, length, policy)
    assert result.policy == policy
    assert result.ids == ids[: result.start] + ids[result.stop :]
    assert len(result.ids) == min(len(ids), length)
    assert result.cut == max(len(ids) - length, 0)
    if result.cut and policy == "left":
        assert result.start == 0
    if result.cut and policy == "right":
        assert result.stop == len(ids)
    if result.cut and policy == "middle":
        assert 0 <= result.start - (len(ids) - result.stop) <= 1, "both ends are kept alike"


@given(ids=IDS, length=st.integers(1, 12), data=st.data())
def test_windows_cover_everything(ids: list[int], length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    found = list(windows(ids, length, stride))
    assert [id for window in found for id in window.ids[window.overlap :]] == ids
    for i, window in enumerate(found):
        assert window.ids == ids[window.start : window.stop]
        assert window.start == i * stride
        assert len(window.ids) == length or window.stop == len(ids)
        assert window.overlap == (length - stride if i else 0)


def test_wrong_arguments() -> None:
    with pytest.raises(errors.InvalidRequest, match="truncate"):
        truncate([1], 1, "centre")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="max_length"):
        truncate([1], -1)
    for length, stride in ((0, 1), (4, 0), (4, 5)):
        with pytest.raises(errors.InvalidRequest):
            windows([1], length, stride)


def test_encode_with_a_limit(trained: Tokenizer) -> None:
    text = "one two three four five six"
    ids = trained.encode(text)
    assert trained.encode(text, max_length=len(ids)) == ids
    for policy in ("left", "right", "middle"):
        assert trained.encode(text, max_length=3, truncate=policy) == truncate(ids, 3, policy).ids
    with pytest.raises(
        errors.InvalidRequest, match=f"got {len(ids)}, expected at most max_length=3"
    ) as caught:
        trained.encode(text, max_length=3)
    assert "truncate" in str(caught.value)
