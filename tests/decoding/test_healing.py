"""Token healing against brute force: every sequence of tokens of a small vocabulary, tried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2
from decoding.trees import FakeTree, run
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.healing import Healing, TokenIndex, heal
from gpt2.decoding.strategies.masked import allowed, masked


class Tokens:
    """A vocabulary of these tokens; of the special ones only the name is bytes."""

    def __init__(self, texts: Sequence[bytes], specials: Sequence[int] = ()) -> None:
        self.texts = list(texts)
        self.vocab_size = len(texts)
        self.special_tokens = {f"<{i}>": i for i in specials}

    def token_bytes(self, id: int) -> bytes:
        return self.texts[id]

    def encode(self, text: str) -> list[int]:
        raise AssertionError("healing encodes nothing")


def reaches(tokens: Tokens, first: int, rest: bytes) -> bool:
    """Whether some sequence of tokens that begins with `first` begins with the bytes `rest`."""
    text = tokens.texts[first]
    if first in tokens.special_tokens.values() or not text:
        return False
    if text.startswith(rest):
        return True
    return rest.startswith(text) and any(
        reaches(tokens, other, rest[len(text) :]) for other in range(tokens.vocab_size)
    )


# Few letters, so that tokens begin with each other; 0xff is the byte after which there is none.
TEXTS = st.lists(
    st.text("ab\xff", min_size=0, max_size=4).map(lambda s: s.encode("latin-1")), min_size=1, max_size=8
)


@given(texts=TEXTS, rest=st.text("ab\xff", min_size=1, max_size=5), data=st.data())
def test_allowed_are_the_tokens_that_lead_there(texts: list[bytes], rest: str, data: Any) -> None:
    specials = data.draw(st.sets(st.integers(0, len(texts) - 1), max_size=2))
    tokens = Tokens(texts, sorted(specials))
    index = TokenIndex(tokens, len(texts) + 3)
    wanted = rest.encode("latin-1")
    mask = Healing(index, wanted).mask()
    assert mask is not None
    leading = [t for t in range(len(texts)) if reaches(tokens, t, wanted)]
    covering = [t for t in leading if texts[t].startswith(wanted)]
    assert allowed(mask).tolist() == (covering or leading)


@given(texts=TEXTS, data=st.data())
def test_what_is_taken_back_is_what_a_longer_token_begins_with(texts: list[bytes], data: Any) -> None:
    specials = data.draw(st.sets(st.integers(0, len(texts) - 1), max_size=2))
    tokens = Tokens(texts, sorted(specials))
    prompt = data.draw(st.lists(st.integers(0, len(texts) + 1), min_size=1, max_size=5))
    kept, rest = TokenIndex(tokens, len(texts) + 2).take_back(prompt)

    def joined(count: int) -> bytes | None:
        """The bytes of the last tokens; None if one of them has none."""
        ids = prompt[len(prompt) - count :]
        if any(i >= len(texts) or i in specials or not texts[i] for i in ids):
            return None
        return b"".join(texts[i] for i in ids)

    extended = [
        count
        for count in range(1, len(prompt) + 1)
        if (text := joined(count)) is not None
        and any(t != text and t.startswith(text) and i not in specials for i, t in enumerate(texts))
    ]
    count = max(extended, default=0)
    assert kept == prompt[: len(prompt) - count]
    assert rest == (joined(count) if count else b"")


# --- on the bundled model ---


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture(scope="module")
def index(lm: gpt2.LanguageModel) -> TokenIndex:
    return TokenIndex(lm.tokenizer, lm.config.vocab_size)


def write(lm: gpt2.LanguageModel, index: TokenIndex, ids: Sequence[int], **options: Any) -> list[list[int]]:
    """The prompt that was kept, with what each alternative added."""
    params = SamplingParams(**{"max_new_tokens": 6, "seed": 1, **options})
    tree = FakeTree(params, frozenset(), lm.config.vocab_size, lm.logits)
    kept, rest = heal(index, ids, None)
    written = run(tree, kept, masked(lambda: Healing(index, rest)))
    return [[*kept, *one.tokens] for one in written]


@pytest.mark.parametrize(
    "prompt",
    [
        "Once upon a ti",
        "The little gir",
        "Hel",
        "She sa",
        'He said, "',
        "It was 😀",
        "a  ",
        "e\u0301",
        "  \n\n",
    ],
)
@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"n": 3, "temperature": 1.3, "logprobs": 1}], ids=str
)
def test_the_text_goes_on_from_the_very_prompt(
    prompt: str, options: Any, lm: gpt2.LanguageModel, index: TokenIndex
) -> None:
    for ids in write(lm, index, lm.tokenizer.encode(prompt), **options):
        assert lm.tokenizer.decode_bytes(ids).startswith(prompt.encode())


def test_a_cut_within_a_character_is_healed(lm: gpt2.LanguageModel, index: TokenIndex) -> None:
    text = "It costs 5 €".encode()[:-1]
    for ids in write(lm, index, lm.tokenizer.encode(text), n=3):
        assert lm.tokenizer.decode_bytes(ids).startswith(text)


def test_it_heals(lm: gpt2.LanguageModel, index: TokenIndex) -> None:
    """A word cut in two goes on as the uncut text does."""
    whole = lm.tokenizer.encode("The little girl")
    cut = lm.tokenizer.encode("The little gir")
    assert cut != whole[: len(cut)]
    (ids,) = write(lm, index, cut, temperature=0.0)
    assert ids[: len(whole)] == whole
    (plain,) = [lm.generate(cut, temperature=0.0, max_new_tokens=1)]
    assert isinstance(plain, gpt2.Completion)
    assert [*cut, *plain.tokens] != whole, "without it this model goes on otherwise"


def test_the_draw_is_by_the_models_probabilities_among_the_allowed(
    lm: gpt2.LanguageModel, index: TokenIndex
) -> None:
    """One new token after a healed prompt: greedy takes the most probable one of those that lead there."""
    ids = lm.tokenizer.encode("The ca")
    kept, rest = index.take_back(ids)
    assert rest
    logits = lm.logits(kept)[-1]
    best = max(index.towards(rest), key=lambda t: (logits[t], -t))
    assert write(lm, index, ids, temperature=0.0, max_new_tokens=1) == [[*kept, best]]


def test_special_tokens_stay(lm: gpt2.LanguageModel, index: TokenIndex) -> None:
    eos = lm.tokenizer.eos_id or 0
    assert index.take_back([5, eos]) == ([5, eos], b"")
    assert index.bytes_of(eos) is None
    mask = Healing(index, b"<").mask()
    assert mask is not None
    assert eos not in allowed(mask)


def test_something_of_the_prompt_is_kept(lm: gpt2.LanguageModel, index: TokenIndex) -> None:
    """The start token stands for all of it; without one its first token stays."""
    one, two = lm.tokenizer.encode("Th"), lm.tokenizer.encode("Th Th")
    assert index.take_back(one) == ([], b"Th")
    assert heal(index, one, 7) == ([7], b"Th")
    assert heal(index, one, None) == (one, b"")
    assert heal(index, two, 7) == index.take_back(two)
