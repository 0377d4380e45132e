"""However a text is cut into pieces, what is shown is the text up to the first stop string, no more, no
less."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.decoding.stop import StopMatcher
from gpt2.errors import InvalidRequest

# Two letters, so that stop strings overlap themselves, each other and the text.
TEXTS = st.text("ab", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: the earliest start; of those that start there, the shortest."""
    found = [(text.find(s), len(s), s) for s in stops if s in text]
    if not found:
        return text, None
    at, _, which = min(found)
    return text[:at], which


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    results = [matcher.push(piece) for piece in pieces]
    results.append(matcher.finish())
    after_stop = [r for r, before in zip(results[1:], results, strict=False) if before.stopped]
    assert all(r.emit == "" and r.stopped for r in after_stop)
    return "".join(r.emit for r in results), results[-1].which


@settings(max_examples=400)
@given(text=TEXTS, stops=STOPS, cuts=st.sets(st.integers(0, 24), max_size=8))
def test_every_way_of_cutting_gives_the_same(text: str, stops: list[str], cuts: set[int]) -> None:
    edges = [0, *sorted(c for c in cuts if c <= len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert run(pieces, stops) == expected(text, stops)
    assert run(list(text), stops) == expected(text, stops)


def test_every_split_of_short_texts_in_two_and_three() -> None:
    stops = ["abab", "ba", "bbb", "b"]
    for number in range(2**7):
        text = format(number, "07b").replace("0", "a").replace("1", "b")
        for chosen in (stops, stops[:3], stops[:2], stops[:1]):
            want = expected(text, chosen)
            for i in range(8):
                for j in range(i, 8):
                    assert run([text[:i], text[i:j], text[j:]], chosen) == want


@given(text=TEXTS, stops=STOPS)
def test_nothing_is_held_back_without_need(text: str, stops: list[str]) -> None:
    """What is held is the beginning of a stop string; nothing else waits."""
    matcher = StopMatcher(stops)
    for letter in text:
        if matcher.push(letter).stopped:
            assert matcher.held == ""
            return
        assert matcher.held == "" or any(
            s.startswith(matcher.held) or matcher.held.startswith(s) for s in stops
        )
        assert len(matcher.held) < max(map(len, stops), default=1)


def test_examples() -> None:
    matcher = StopMatcher(["\nUser:"])
    assert matcher.push("Hello.\nUs") == ("Hello.", False, None)
    assert matcher.held == "\nUs"
    assert matcher.push("ually") == ("\nUsually", False, None)
    assert matcher.push("\nUser") == ("", False, None)
    assert matcher.push(": hi") == ("", True, "\nUser:")
    assert matcher.push("more") == ("", True, "\nUser:")
    assert StopMatcher([]).push("abc") == ("abc", False, None)


def test_a_shorter_stop_waits_for_an_earlier_longer_one() -> None:
    stops = ["abcd", "bc"]
    assert run(["abc", "d"], stops) == ("", "abcd")
    assert run(["abc", "x"], stops) == ("a", "bc")
    assert run(["abc"], stops) == ("a", "bc")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="stop"):
        StopMatcher([""])
