"""Turn the novels into what the bundled model is trained on: cleaned text, a split, a vocabulary.

Reads `english-novels-100.txt.xz` (100 English novels, one `<doc title="AUTHOR_Title_YEAR">` each) and writes
into the output folder `train/*.txt`, `held_out/*.txt`, the tokenizer files and `prepare.json` with the split,
the counts and the sha256 of the vocabulary. The same input gives the same bytes.

What is left out: whatever is not surely in the public domain everywhere we ship to, which we take to be a
year after 1928 in the title, or an author who died after 1955 (of the authors here that is E. M. Forster,
1970).

What is cleaned, in this order:
  - characters: byte-order marks and form feeds go, no-break spaces and tabs become spaces, curly quotes
    become straight ones (99 of the 100 novels have straight ones already), the long s becomes s, `--` and the
    em dash become ` - ` (the corpus's own habit), `_italics_` lose their underscores;
  - lines that hold only a page number go;
  - novels wrapped at a fixed width are unwrapped, so that one line is one paragraph (see `unwrap`);
  - runs of spaces become one, blank lines go.
Nothing else is touched: spelling, headings and the title page stay. What the source files have lost (some
dashes, some apostrophes) stays lost.

It does not know the model, and it does not import PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.tokenizer import Tokenizer

CORPUS = "english-novels-100.txt.xz"
LAST_YEAR = 1928
DIED_AFTER_1955 = frozenset({"Forster"})
VOCAB_SIZE = 6144
"""More bytes a token than 4,096 (3.82 against 3.62), and room in 12 MB for five layers of 256 beside it."""
WRAPPED_BELOW = 130
"""A novel whose 90th percentile of line lengths is below this many characters is hard-wrapped."""

CHARACTERS = str.maketrans(
    {
        "\ufeff": None,
        "\r": None,
        "\u200b": None,
        "\x0c": " ",
        "\xa0": " ",
        "\t": " ",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u017f": "s",
    }
)


@dataclass(frozen=True, slots=True)
class Novel:
    """One novel: its title in the corpus (`Author_Title_Year`) and its text."""

    title: str
    text: str

    @property
    def author(self) -> str:
        return self.title.split("_")[0]

    @property
    def year(self) -> int:
        return int(self.title.rsplit("_", 1)[1])


def read_novels(path: Path) -> list[Novel]:
    text = lzma.decompress(path.read_bytes()).decode("utf-8")
    found = re.findall(r'<doc title="([^"]+)">(.*?)</doc>', text, flags=re.DOTALL)
    return [Novel(title, body) for title, body in found]


def public_domain(novels: list[Novel]) -> list[Novel]:
    return [n for n in novels if n.year <= LAST_YEAR and n.author not in DIED_AFTER_1955]


def clean(text: str) -> str:
    """The text with one paragraph on each line, no blank lines, a newline at the end."""
    text = text.translate(CHARACTERS)
    text = re.sub(r" *(?:--+|\u2014) *", " - ", text)
    text = re.sub(r"_([^_\n]*)_", r"\1", text)
    lines = [line.rstrip() for line in text.split("\n") if not re.fullmatch(r"\s*\d+\s*", line)]
    paragraphs = unwrap(lines) if is_wrapped(lines) else lines
    squeezed = (re.sub(r" +", " ", p).strip() for p in paragraphs)
    return "\n".join(p for p in squeezed if p) + "\n"


def line_width(lines: list[str], share: float) -> int:
    lengths = sorted(len(line) for line in lines if line.strip())
    return lengths[min(len(lengths) - 1, int(len(lengths) * share))]


def is_wrapped(lines: list[str]) -> bool:
    return line_width(lines, 0.9) < WRAPPED_BELOW


def unwrap(lines: list[str]) -> list[str]:
    """Join the lines of a paragraph that was wrapped at a fixed width.

    Where blank lines separate the paragraphs, a block is one paragraph, unless all its lines are short
    (verse, a title page). Where they do not, see `ends_paragraph`.
    """
    width = line_width(lines, 0.98)
    blank = sum(not line.strip() for line in lines)
    paragraphs: list[str] = []
    if blank > 0.08 * len(lines):
        for block in blocks(lines):
            verse = len(block) > 1 and max(map(len, block)) < 0.8 * width
            paragraphs += block if verse else [" ".join(line.strip() for line in block)]
        return paragraphs
    current: list[str] = []
    median = line_width(lines, 0.5)
    stripped = [line.strip() for line in lines if line.strip()]
    for line, following in zip(stripped, [*stripped[1:], ""], strict=True):
        current.append(line)
        if ends_paragraph(line, following, median):
            paragraphs.append(" ".join(current))
            current = []
    return paragraphs


def ends_paragraph(line: str, following: str, width: int) -> bool:
    """Whether a line ends its paragraph, in a novel without blank lines.

    It does where the next line's first word would still have fitted (the width is the median length of a
    line, which is a little less than the width of the wrapping), or where one speech ends and the next
    begins; never where the next line starts with a small letter.
    """
    if not following:
        return True
    if following[0].islower():
        return False
    speeches = line[-1] == following[0] and line[-1] in "\"'"
    return speeches or len(line) + 1 + len(following.split(maxsplit=1)[0]) <= width - 2


def blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines that are not blank."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def choose_held_out(novels: list[Novel], count: int = 5) -> list[str]:
    """The held-out titles: of the novels of ordinary length whose author has three or more, sorted by year,
    the middle one of each fifth.

    So they span the years, each author has at least two other novels in training, and no novel outweighs the
    rest. An author is taken once: where the middle novel's author is taken already, the next later novel in
    that fifth is.
    """
    authors = [n.author for n in novels]
    many = [n for n in novels if authors.count(n.author) >= 3 and 400_000 <= len(n.text) <= 1_200_000]
    many.sort(key=lambda n: (n.year, n.title))
    chosen: list[Novel] = []
    for i in range(count):
        part = many[i * len(many) // count : (i + 1) * len(many) // count]
        taken = {n.author for n in chosen}
        chosen.append(next(n for n in part[len(part) // 2 :] if n.author not in taken))
    return [n.title for n in chosen]


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def prepare(corpora: Path, out: Path, vocab_size: int) -> dict[str, Any]:
    """Everything, in order; returns what prepare.json says."""
    novels = public_domain(read_novels(corpora / CORPUS))
    held_out = choose_held_out(novels)
    train = [n.title for n in novels if n.title not in held_out]
    for novel in novels:
        folder = "held_out" if novel.title in held_out else "train"
        write_text(out / folder / f"{novel.title}.txt", clean(novel.text))
    paths = {
        kind: [out / kind / f"{t}.txt" for t in titles]
        for kind, titles in (("train", train), ("held_out", held_out))
    }
    tokenizer = Tokenizer.train(paths["train"], vocab_size=vocab_size)
    tokenizer.save(out, ("tokenizer.json", "vocab.json"))
    facts: dict[str, Any] = {"vocab_size": vocab_size, "train": train, "held_out": held_out}
    for kind in ("train", "held_out"):
        facts[f"{kind}_bytes"] = sum(p.stat().st_size for p in paths[kind])
    names = ("vocab.json", "merges.txt")
    facts["sha256"] = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    (out / "prepare.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=Path, default=Path("../shared/data/corpora"))
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    args = parser.parse_args()
    facts = prepare(args.corpora, args.out, args.vocab_size)
    print(json.dumps({k: v for k, v in facts.items() if k != "train"}, indent=2))


if __name__ == "__main__":
    main()
