"""The texts that the tokenizer is measured on: what is there (../shared, Python's own library), and what is
made here.

Every text is made of documents (str). The same call gives the same texts on the same machine.
"""

from __future__ import annotations

import lzma
import random
import sysconfig
from collections.abc import Callable
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DOCUMENT = 16_000
"""Characters of a document, about: an article, a source file, a long prompt."""
SYLLABLES = [
    *("ka", "lo", "mi", "ther", "ing", "est", "un", "re", "tion", "al", "ver", "s", "and"),
    *("en", "or", "able", "ble", "pre", "con", "is", "ed"),
]


def documents(text: str, limit: int) -> list[str]:
    """At most `limit` characters in documents that end at the end of a line."""
    out: list[str] = []
    at = 0
    while at < min(len(text), limit):
        stop = text.find("\n", at + DOCUMENT) + 1 or len(text)
        out.append(text[at:stop])
        at = stop
    return out


def english(limit: int) -> list[str]:
    """Wikipedia and novels in turn; made-up prose where ../shared is absent."""
    sources = [SHARED / "corpora" / name for name in ("wikipedia-2015-0.txt.xz", "english-novels-100.txt.xz")]
    if not all(path.is_file() for path in sources):
        return documents(made_prose(limit), limit)
    found = []
    for path in sources:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            found.append(documents(file.read(limit // 2), limit // 2))
    return [document for both in zip(*found, strict=False) for document in both]


def made_prose(size: int) -> str:
    """Sentences of made-up words whose frequencies fall as 1 / rank, as those of real words do."""
    rng = random.Random(1)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    out: list[str] = []
    length = 0
    while length < size:
        sentence = (
            " ".join(rng.choices(words, weights, k=rng.randint(4, 24))).capitalize()
            + rng.choice(".?!,;")
            + " "
        )
        out.append(sentence if rng.random() < 0.9 else sentence + "\n")
        length += len(sentence)
    return "".join(out)


def code(limit: int) -> list[str]:
    """Python's standard library, in order of the file names."""
    root = Path(sysconfig.get_path("stdlib"))
    text = []
    for path in sorted(root.glob("*.py")):
        text.append(path.read_text(encoding="utf-8", errors="replace"))
        if sum(map(len, text)) >= limit:
            break
    return documents("".join(text), limit)


def cjk(limit: int) -> list[str]:
    """Made-up Chinese and Japanese: characters with frequencies as 1 / rank, in clauses and sentences."""
    rng = random.Random(2)
    han = [chr(code) for code in rng.sample(range(0x4E00, 0x9FA6), 4000)]
    kana = [chr(code) for code in range(0x3041, 0x3094)]
    weights = [1 / rank for rank in range(1, len(han) + 1)]
    out: list[str] = []
    length = 0
    while length < limit:
        clause = "".join(rng.choices(han, weights, k=rng.randint(3, 12)))
        if rng.random() < 0.4:
            clause += "".join(rng.choices(kana, k=rng.randint(1, 8)))
        clause += rng.choice("，，，。。！？、") + ("\n" if rng.random() < 0.03 else "")
        out.append(clause)
        length += len(clause)
    return documents("".join(out), limit)


def adversarial() -> dict[str, list[str]]:
    """One document of a megabyte (or so) each, of the kinds that make a naive tokenizer slow."""
    rng = random.Random(3)
    million = 1_000_000
    return {
        "one letter": ["a" * million],
        "spaces": [" " * million],
        "random bytes": [rng.randbytes(million // 2).decode("latin-1")],
        "random letters": ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=million))],
        "punctuation": ["!?" * (million // 2)],
    }


def all_texts(limit: int) -> dict[str, list[str]]:
    natural: dict[str, Callable[[int], list[str]]] = {"English": english, "code": code, "CJK": cjk}
    return {name: make(limit) for name, make in natural.items()} | adversarial()
