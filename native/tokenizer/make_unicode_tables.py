"""Write unicode_ranges.h: the code points of classes letter (L*), number (N*) and White_Space.

    pip install regex==2024.11.6
    python native/tokenizer/make_unicode_tables.py            # write the header beside this script
    python native/tokenizer/make_unicode_tables.py --check    # fail if the committed header differs

The classes are those of Unicode 16.0, because that is the version of tiktoken, whose ids ours must equal
(tests/tokenizer/test_unicode.py compares every code point). This release of `regex` has it; Python's own
unicodedata is older (14.0 in Python 3.11), later releases of `regex` are newer.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import regex

REGEX_WITH_UNICODE_16 = "2024.11.6"
HEADER = Path(__file__).with_name("unicode_ranges.h")
CLASSES = (("kLetterRanges", r"\p{L}"), ("kNumberRanges", r"\p{N}"), ("kSpaceRanges", r"\p{White_Space}"))
SURROGATES = range(0xD800, 0xE000)


def ranges(pattern: str) -> list[tuple[int, int]]:
    """The maximal ranges [first, last] of code points that match `pattern`."""
    match = regex.compile(pattern).match
    found: list[tuple[int, int]] = []
    for code in range(0x110000):
        if code in SURROGATES or not match(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def header() -> str:
    lines = [
        "// Written by make_unicode_tables.py; do not edit. Code points [first, last] of each class that the",
        "// pre-tokenizer knows, in Unicode 16.0. Everything else is 'other'.",
        "#pragma once",
        "#include <cstdint>",
        "",
        "namespace gpt2::tokenizer {",
        "",
        "struct CodeRange {",
        "  std::uint32_t first, last;",
        "};",
    ]
    for name, pattern in CLASSES:
        lines += ["", f"// {pattern}", "// clang-format off", f"inline constexpr CodeRange {name}[] = {{"]
        row = ""
        for first, last in ranges(pattern):
            item = f"{{{first:#x},{last:#x}}},"
            if len(row) + len(item) > 118:
                lines.append(row)
                row = ""
            row += item
        lines += [row, "};", "// clang-format on"]
    return "\n".join([*lines, "", "}  // namespace gpt2::tokenizer", ""])


if __name__ == "__main__":
    if version("regex") != REGEX_WITH_UNICODE_16:
        sys.exit(f"needs regex=={REGEX_WITH_UNICODE_16} (Unicode 16.0), got {version('regex')}")
    text = header()
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if HEADER.read_text(encoding="utf-8") == text else f"{HEADER} differs: run the script again"
        )
    HEADER.write_text(text, encoding="utf-8")
