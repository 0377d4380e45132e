"""Strings that are hard for a GPT-2 tokenizer, made from a seed: the same seed gives the same strings.

Aimed at the edges of the pre-tokenizer (contractions, mixed white space, digits, class changes), at UTF-8
of all lengths, at Unicode's odd corners, and at long runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

SPACES = "  \n\t\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_QUITE_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\x00"
CONTRACTIONS = [
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'LL",
    "'r",
    "'v",
    "'l",
    "''s",
    "' s",
    "'",
    "’s",
]
NUMBERS = "0123456789²³¹½٠١२३৪௫๖༧Ⅷ①⑴㈠㊀〇𝟘𝟿🄌"
CJK = "一二三中国的是了不人我在有他这大来以个上们到说時語日本のはをがにアイウエオンー한국어안녕하세요"
LETTERS = "éüñßøåæœżğıİẞαβγδωабвгдяәқאבגדهوزحطيकखगघ"
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️", "1️⃣", "🧑🏿‍💻", "☃"]
COMBINING = ["e\u0301", "a\u0308\u0323", "o\u0338", "\u0301", "क्षि", "ก็", "\u20dd", "Z͑ͫ̓ͪ̂ͫ̽"]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»—–…“”‘’•§¶©™°€£¥"
WORDS = [
    *("the", "of", "and", "to", "in", "is", "it", "that", "was", "for", "on", "are", "with", "as", "his"),
    *("they", "I", "at", "be", "this", "have", "from", "or", "one", "had", "by", "word"),
]
SPECIAL = ["<|endoftext|>", "<|endoftext", "|>", "<|", "<|im_start|>"]


def _words(r: random.Random) -> str:
    return " ".join(r.choices(WORDS, k=r.randint(1, 6)))


def _code_point(r: random.Random) -> str:
    top = r.choice([0x80, 0x250, 0x800, 0x3000, 0x10000, 0x20000, 0x110000])
    code = r.randrange(top)
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"


def _identifier(r: random.Random) -> str:
    return r.choice(["_", ".", "::", "->", ""]).join(r.choices(WORDS, k=3)) + r.choice(
        ["()", "[0]", ";\n", " = 1"]
    )


PIECES: list[Callable[[random.Random], str]] = [
    _words,
    _words,
    lambda r: "".join(r.choices(SPACES, k=r.randint(1, 6))),
    lambda r: "".join(r.choices(SPACES[:5] + NOT_QUITE_SPACES, k=r.randint(1, 5))),
    lambda r: r.choice(["", " ", "he", "I", "1", "!", "\n"]) + r.choice(CONTRACTIONS),
    lambda r: "".join(r.choices(NUMBERS, k=r.randint(1, 6))),
    lambda r: "".join(r.choices(CJK, k=r.randint(1, 12))),
    lambda r: "".join(r.choices(LETTERS, k=r.randint(1, 8))),
    lambda r: r.choice(EMOJI),
    lambda r: r.choice(COMBINING),
    lambda r: "".join(r.choices(PUNCTUATION, k=r.randint(1, 5))),
    lambda r: r.choice(SPECIAL),
    lambda r: "".join(_code_point(r) for _ in range(r.randint(1, 5))),
    lambda r: (
        r.choice(["a", " ", "\n", "=", "-", "é", "中", "0", "ab", " \n", "!?"])
        * r.choice([2, 15, 16, 17, 33, 64, 65, 130])
    ),
    lambda r: "".join(chr(r.randrange(128)) for _ in range(r.randint(1, 20))),
    lambda r: "".join(r.choices("aeioutnsrhldcm", k=r.randint(1, 24))),
    _identifier,
]


def hard_strings(count: int, seed: int = 0) -> Iterator[str]:
    """`count` strings of one to eight pieces each."""
    r = random.Random(seed)
    for _ in range(count):
        yield "".join(r.choice(PIECES)(r) for _ in range(r.randint(1, 8)))
