"""Ids of every text under ../shared/data, whole, compared with tiktoken and read back.

    python tests/tokenizer/corpora_ids.py

Compressed files are unpacked in memory; a file that is no UTF-8 text is named and left out. One line for each
file; ends with 1 at the first difference.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gpt2.tokenizer import Tokenizer  # noqa: E402
from tokenizer.oracle import by_tiktoken_from_files, first_difference  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
AT_ONCE = 4_000_000
"""Characters compared at a time."""


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    name = path.relative_to(DATA).as_posix()
    if path.suffix == ".xz":
        yield name, lzma.decompress(path.read_bytes())
    elif path.suffix == ".bz2":
        yield name, bz2.decompress(path.read_bytes())
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                yield f"{name}:{member}", archive.read(member)
    else:
        yield name, path.read_bytes()


def main() -> int:
    folder = DATA / "tokenizer"
    tokenizer, oracle = Tokenizer.load(folder), by_tiktoken_from_files(folder)
    files = total = 0
    for path in sorted(p for p in DATA.rglob("*") if p.is_file()):
        for name, data in contents(path):
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                print(f"{name}: no UTF-8, left out")
                continue
            tokens = 0
            for start in range(0, len(text), AT_ONCE):
                part = text[start : start + AT_ONCE]
                ours, theirs = tokenizer.encode(part), oracle(part)
                if ours != theirs or tokenizer.decode(ours) != part:
                    print(f"{name}, from character {start}: {first_difference(ours, theirs)}")
                    return 1
                tokens += len(ours)
            files += 1
            total += tokens
            print(f"{name}: {tokens} tokens, equal", flush=True)
    print(f"{files} files, {total} tokens: all equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
