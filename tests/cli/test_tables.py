"""next, suggest, score, tokenize: what they print for people and for programs, with and without colour."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fakes import FakeModel

Gpt2 = Callable[..., Any]


def test_next_is_a_table_with_bars(gpt2: Gpt2) -> None:
    lines = gpt2("next", "x", "--top", "3").out.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["50.00%", "97", '"a"'],
        ["25.00%", "10", '"\\n"'],
        ["12.50%", "226", '"\\xe2"'],
    ]
    assert lines[1].count("█") == 15
    assert lines[4].split() == ["12.50%", "all", "other", "tokens"]


def test_next_json(gpt2: Gpt2) -> None:
    records = [json.loads(line) for line in gpt2("next", "x", "--json", "-n", "2").out.splitlines()]
    assert [(r["id"], r["probability"]) for r in records] == [(97, 0.5), (10, 0.25)]


def test_suggestions_are_lines(gpt2: Gpt2, model: FakeModel) -> None:
    done = gpt2("suggest", "The gir", "-n", "2", "--max-new-tokens", "4", "--truncate", "left")
    assert [line.split(maxsplit=1) for line in done.out.splitlines()] == [
        ["0.00", '"l\\n"'],
        ["-0.50", '" é"'],
    ]
    assert model.suggested == ("The gir", 2, {"max_new_tokens": 4, "truncate": "left"})


def test_suggestions_as_json(gpt2: Gpt2) -> None:
    records = [json.loads(line) for line in gpt2("suggest", "x", "--json").out.splitlines()]
    assert records[0] == {"text": "l\n", "logprob": 0.0, "tokens": [0]}
    assert len(records) == 2


def test_score_without_colour_is_a_table(gpt2: Gpt2) -> None:
    done = gpt2("score", "ab\n")
    assert [line.split() for line in done.out.splitlines()] == [
        ["bits", "id", "token"],
        ["0.00", "97", '"a"'],
        ["1.00", "98", '"b"'],
        ["2.00", "10", '"\\n"'],
        ["3", "tokens,", "3.0", "bits,", "perplexity", "2.00,", "1.000", "bits", "per", "byte"],
    ]


def test_score_takes_stdin_to_the_byte(gpt2: Gpt2) -> None:
    tokens = json.loads(gpt2("score", "--json", stdin=b"ab\n").out)["tokens"]
    assert [token["text"] for token in tokens] == ["a", "b", "\n"]
    assert [token["bits"] for token in tokens] == pytest.approx([0, 1, 2])


def test_score_with_colour_shows_the_text_itself(gpt2: Gpt2) -> None:
    plain = ""
    out = gpt2("score", "aé\nz", FORCE_COLOR="1").out
    assert "48;5;194m" in out  # calm
    assert "48;5;203m" in out  # alarm, in the legend
    for i, part in enumerate(out.split("\x1b[")):
        plain += part if i == 0 else part.partition("m")[2]
    assert plain.startswith("aé\nz\n")  # the two tokens of é show one character
    assert all("48;5" not in line or line.endswith("\x1b[0m") for line in out.splitlines())


@pytest.mark.parametrize("command", ["next", "score", "tokenize"])
def test_no_color_wins(command: str, gpt2: Gpt2) -> None:
    assert "\x1b" not in gpt2(command, "abc", NO_COLOR="1", FORCE_COLOR="1").out


def test_tokenize_is_a_table(gpt2: Gpt2) -> None:
    lines = [line.split() for line in gpt2("tokenize", "aé").out.splitlines()]
    assert lines[1:] == [
        ["0-1", "97", '"a"'],
        ["1-2", "195", '"\\xc3"'],
        ["1-2", "169", '"\\xa9"'],
        ["3", "tokens"],
    ]


def test_tokenize_for_programs(gpt2: Gpt2) -> None:
    assert gpt2("tokenize", "--ids", "ab").out == "97 98\n"
    assert gpt2("tokenize", "--count", stdin=b"ab\n").out == "3\n"
    assert json.loads(gpt2("tokenize", "--json", "ab").out) == {
        "ids": [97, 98],
        "pieces": ["a", "b"],
        "offsets": [[0, 1], [1, 2]],
    }


@pytest.mark.parametrize("ids", ["97 98", "97,98", "[97, 98]", "97\n98\n"])
def test_decode_reads_what_the_others_print(ids: str, gpt2: Gpt2) -> None:
    assert gpt2("tokenize", "--decode", stdin=ids.encode()).out == "ab"


def test_decode_takes_ids_as_arguments(gpt2: Gpt2) -> None:
    assert gpt2("tokenize", "--decode", "97", "98").out == "ab"


def test_decode_of_an_id_that_is_no_number(gpt2: Gpt2) -> None:
    done = gpt2("tokenize", "--decode", "97", "-1x")
    assert done.code in (1, 2)
    assert done.out == ""
