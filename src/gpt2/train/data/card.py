"""data.md: what is in a folder of tokens, for people. The index has the same for programs.

Knows nothing of how it came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def card(facts: Mapping[str, Any]) -> str:
    """The page, from what the index says (docs/formats/tokens.md)."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    tokenizer, settings = facts["tokenizer"], facts["settings"]
    yield "# Data card\n"
    yield (
        f"Tokens of a vocabulary with {tokenizer['vocab_size']:,} entries "
        f"(SHA-256 {tokenizer['hash'][:16]}...), made by `gpt2 prepare`. "
        "The form of the files is that of version 1 of `gpt2-tokens`.\n"
    )
    yield "| split | documents | tokens | bytes of text | bytes per token | longest document, tokens |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, split in facts["splits"].items():
        rate = split["bytes"] / split["tokens"] if split["tokens"] else 0
        yield (
            f"| {name} | {split['documents']:,} | {split['tokens']:,} | {split['bytes']:,} | {rate:.2f} | "
            f"{split['longest']:,} |"
        )
    yield "\n" + _how_held_back(facts)
    yield "\n## Left out\n"
    yield "| reason | documents | bytes of text |"
    yield "|---|---:|---:|"
    for reason, left in facts["left_out"].items():
        looked = _looked_for(reason, settings)
        yield (
            f"| {reason} | {left['documents']:,} | {left['bytes']:,} |"
            if looked
            else f"| {reason} | not looked for | |"
        )
    if facts.get("left_out_files"):
        yield f"\n{len(facts['left_out_files'])} files of other kinds in the folders were not read."
    if "evaluation" in facts:
        yield from _evaluation(facts["evaluation"], settings["ngram"])
    yield "\n## Sources\n"
    yield "| file | bytes | documents | SHA-256 |"
    yield "|---|---:|---:|---|"
    for source in facts["sources"]:
        name = source["name"].replace("|", "\\|").replace("\n", " ")
        yield f"| {name} | {source['bytes']:,} | {source['documents']:,} | {source['sha256']} |"
    yield "\n## Settings\n"
    for name, value in settings.items():
        yield f"- {name}: `{value!r}`"


def _how_held_back(facts: Mapping[str, Any]) -> str:
    if any(source["validation"] for source in facts["sources"]):
        return "The validation split is the sources that were given for it."
    if facts["ends_held_back"]:
        return (
            f"There are few documents, so the end of {facts['ends_held_back']} of them, from the beginning "
            "of a paragraph, is the validation split."
        )
    if not facts["splits"]["validation"]["documents"]:
        return "Nothing is held back for validation."
    return "The validation split is whole documents, chosen by a hash of their text and the seed."


def _looked_for(reason: str, settings: Mapping[str, Any]) -> bool:
    looked = {
        "contaminated": bool(settings["decontaminate"]),
        "exact duplicate": bool(settings["exact_duplicates"]),
        "near duplicate": settings["near_duplicates"] is not None,
    }
    return looked.get(reason, True)


def _evaluation(evaluation: Mapping[str, Any], ngram: int) -> Iterator[str]:
    yield "\n## Evaluation texts that were looked for\n"
    for file in evaluation["files"]:
        yield f"- {file['name']} ({file['sha256']})"
    yield (
        f"\n{evaluation['texts']:,} texts, {ngram} words in a row; {evaluation['too_short']:,} of them have "
        "fewer words and cannot be found."
    )
