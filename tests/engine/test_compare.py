"""Templates by score: the bits are those of the replies, and the test is the sign test."""

from __future__ import annotations

import math

import pytest

import gpt2
from gpt2 import errors
from gpt2.engine.compare import sign_test

EXAMPLES = [
    [("user", "Good morning, sir."), ("assistant", "Good morning. What can I do for you?")],
    [("system", "A talk."), ("user", "Who is that lady?"), ("assistant", "That is my sister.")],
]


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.mark.parametrize("name", ["plain", "dialogue", "alpaca"])
def test_bits_are_what_a_session_would_pay(name: str, lm: gpt2.LanguageModel) -> None:
    """Forced to say the reply, a session's own log-probabilities add up to the score."""
    result = gpt2.compare_templates(lm, EXAMPLES, [name])
    for example, bits in zip(EXAMPLES, result.scores[0].bits, strict=True):
        session = lm.session(template=name, max_new_tokens=0, ignore_eos=True)
        *before, (_, text) = example
        for role, words in before[:-1]:
            session.say(words, role=role)
        session.generate(before[-1][1])
        given = len(session.tokens)
        head = " " if name == "dialogue" else ""
        session.append(head + text)
        scored = lm.score(session.tokens)
        assert bits == pytest.approx(-math.fsum(scored.logprobs[given:]) / math.log(2), rel=1e-12)
    size = sum(len(example[-1][1].encode()) for example in EXAMPLES)
    assert result.scores[0].bits_per_byte == pytest.approx(sum(result.scores[0].bits) / size)


def test_wins_are_over_the_first(lm: gpt2.LanguageModel) -> None:
    result = gpt2.compare_templates(lm, EXAMPLES, ["plain", "dialogue", "plain"])
    plain, dialogue, again = result.scores
    pairs = list(zip(dialogue.bits, plain.bits, strict=True))
    assert (dialogue.wins, dialogue.losses) == (sum(a < b for a, b in pairs), sum(a > b for a, b in pairs))
    assert (again.wins, again.losses, again.p) == (0, 0, 1.0)
    assert result.best.bits_per_byte == min(score.bits_per_byte for score in result.scores)
    assert result.table().splitlines()[1].startswith(result.best.template.id)


def test_the_sign_test() -> None:
    """Two-sided values of the binomial distribution, by hand."""
    assert sign_test(0, 0) == 1.0
    assert sign_test(1, 0) == 1.0
    assert sign_test(3, 0) == pytest.approx(2 / 8)
    assert sign_test(9, 1) == sign_test(1, 9) == pytest.approx(2 * 11 / 1024)
    assert sign_test(5, 5) == 1.0


@pytest.mark.parametrize(
    ("examples", "templates", "says"),
    [
        ([], ["plain"], "nothing to compare"),
        (EXAMPLES, [], "nothing to compare"),
        ([[]], ["plain"], r"examples\[0\]"),
        ([[("assistant", "")]], ["plain"], r"examples\[0\]"),
        ([[("user", "Hello")]], ["plain"], "got 'user', expected 'assistant'"),
        (EXAMPLES, ["chatmll"], "did you mean 'chatml'"),
    ],
)
def test_what_cannot_be_compared(examples: object, templates: object, says: str, lm: object) -> None:
    with pytest.raises(errors.InvalidRequest, match=says):
        gpt2.compare_templates(lm, examples, templates)  # type: ignore[arg-type]
