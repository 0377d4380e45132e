"""The last stages of prepare: choose among the documents, write the shards, the card, the list of what was
left out, and the index.

Knows nothing of how the tokens came about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.tokenizer import Tokenizer
from gpt2.train.data import choosing, duplicates
from gpt2.train.data.card import card
from gpt2.train.data.choosing import LEFT_OUT, SHORTEST_END, TRAIN, VALIDATION, Choice
from gpt2.train.data.shards import SPLITS, ShardWriter, write_index
from gpt2.train.data.sources import Source, place
from gpt2.train.data.spool import Array, Records, Spool

AT_ONCE = 1 << 23
"""Tokens in memory while shards are written; a document of more is copied in stretches."""
LEFT_OUT_FILE = "left-out.jsonl"
CARD_FILE = "data.md"


def finish(
    spool: Spool,
    folder: Path,
    tokenizer: Tokenizer,
    sources: Sequence[Source],
    facts: dict[str, Any],
    *,
    held: int,
    progress: Callable[[int, int], None],
) -> None:
    """Make `folder` one of tokens.

    Args:
        facts: what the index says of the origin ("settings", "sources" with "sha256"); completed here.
        held: the first so many sources are for validation.
        progress: (tokens written, all).
    """
    documents = spool.documents()
    starts = np.concatenate([[0], np.cumsum(documents.tokens)])
    reader = _Reader(spool, starts, tokenizer)
    settings = facts["settings"]
    choice = choosing.choose(
        documents,
        held_back=documents.source < held,
        validation=0.0 if held else settings["validation"],
        seed=settings["seed"],
        near=settings["near_duplicates"],
        exact=settings["exact_duplicates"],
        shingles_of=lambda i: duplicates.shingle_set(reader.text(i)),
        paragraph=reader.paragraph,
    )
    for old in [path for split in SPLITS for path in folder.glob(f"{split}-*")]:
        old.unlink()  # of an earlier attempt at this stage
    tables = _write_shards(
        spool, documents, choice, starts, folder, tokenizer, settings["shard_tokens"], progress
    )
    for number, source in enumerate(facts["sources"]):
        source["documents"] = int((documents.source == number).sum())
    facts |= _counts(documents, choice, reader)
    _write_left_out(folder, documents, choice, sources)
    eos = {"hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id}
    facts = {"tokenizer": eos, **facts, "shards": tables}
    (folder / CARD_FILE).write_text(card(facts), encoding="utf-8")
    write_index(folder, facts)


class _Reader:
    """Documents by their number, before they are in shards."""

    def __init__(self, spool: Spool, starts: Array, tokenizer: Tokenizer) -> None:
        self._spool, self._starts, self._tokenizer = spool, starts, tokenizer
        self._sizes: Array | None = None

    def tokens(self, i: int, first: int, stop: int) -> Array:
        """The stored tokens [first, stop) of document i."""
        base = int(self._starts[i])
        stop = min(base + stop, int(self._starts[i + 1]))
        return np.concatenate([np.zeros(0, np.int64), *self._spool.read(base + first, stop)])

    def text(self, i: int) -> bytes:
        length = int(self._starts[i + 1] - self._starts[i])
        return self._tokenizer.decode_bytes(self.tokens(i, 1, length).tolist())

    def size(self, tokens: Array) -> Array:
        """The bytes of each token."""
        if self._sizes is None:
            sizes = [len(self._tokenizer.token_bytes(t)) for t in range(self._tokenizer.vocab_size)]
            self._sizes = np.array(sizes, np.int64)
        return self._sizes[tokens]

    def paragraph(self, i: int, after: int) -> int:
        """The token of document i behind `after` at which a paragraph begins; 0 for none."""
        last = int(self._starts[i + 1] - self._starts[i]) - SHORTEST_END + 1
        return choosing.paragraph_after(
            lambda first, stop: self.tokens(i, first, stop),
            self.size,
            lambda ids: self._tokenizer.decode_bytes(ids.tolist()),
            max(after, 1),
            last,
        )

    def bytes_from(self, i: int, first: int) -> int:
        """Bytes of the text of document i from its stored token `first` on."""
        base, end = int(self._starts[i]), int(self._starts[i + 1])
        return sum(int(self.size(some).sum()) for some in self._spool.read(base + first, end))


def _write_shards(
    spool: Spool,
    documents: Records,
    choice: Choice,
    starts: Array,
    folder: Path,
    tokenizer: Tokenizer,
    shard_tokens: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    with_loss = bool(documents.loss_from.any())
    writers = {
        split: ShardWriter(
            folder, name, vocab_size=tokenizer.vocab_size, with_loss=with_loss, shard_tokens=shard_tokens
        )
        for split, name in zip((TRAIN, VALIDATION), SPLITS, strict=True)
    }
    marker = np.array([tokenizer.eos_id], np.int64)
    for first, stop in _runs(documents, choice, starts):
        lengths, loss = documents.tokens[first:stop], documents.loss_from[first:stop]
        fate, cut = choice.fate[first:stop], int(choice.cut[first])
        begin, end = int(starts[first]), int(starts[stop])
        if cut:
            writers[TRAIN].stream(spool.read(begin, begin + cut), cut, 0)
            rest = end - begin - cut + 1
            writers[VALIDATION].stream(_chain(marker, spool.read(begin + cut, end)), rest, 0)
        elif stop - first == 1 and int(fate[0]) in writers:
            writers[int(fate[0])].stream(spool.read(begin, end), end - begin, int(loss[0]))
        else:
            stretches = list(spool.read(begin, end))
            tokens = stretches[0] if len(stretches) == 1 else np.concatenate(stretches)
            for split, writer in writers.items():
                mine = fate == split
                if mine.all():
                    writer.write(tokens, lengths, loss)
                elif mine.any():
                    writer.write(tokens[np.repeat(mine, lengths)], lengths[mine], loss[mine])
        progress(end, int(starts[-1]))
    return {name: writers[split].finish() for split, name in zip((TRAIN, VALIDATION), SPLITS, strict=True)}


def _runs(documents: Records, choice: Choice, starts: Array) -> Iterator[tuple[int, int]]:
    """Documents [first, stop) to be written together: one that is cut, or large, alone; others as many as
    memory may have."""
    alone = np.flatnonzero((choice.cut > 0) | (documents.tokens > AT_ONCE))
    first = 0
    while first < len(documents):
        following = int(np.searchsorted(alone, first))
        limit = int(alone[following]) if following < len(alone) else len(documents)
        if limit == first:
            stop = first + 1
        else:
            full = int(np.searchsorted(starts, starts[first] + AT_ONCE, "right")) - 1
            stop = min(max(full, first + 1), limit)
        yield first, stop
        first = stop


def _chain(marker: Array, rest: Iterator[Array]) -> Iterator[Array]:
    yield marker
    yield from rest


def _counts(documents: Records, choice: Choice, reader: _Reader) -> dict[str, Any]:
    """How much there is in each split, and how much was left out for which reason."""
    ends = np.flatnonzero(choice.cut)
    end_bytes = sum(reader.bytes_from(i, int(choice.cut[i])) for i in ends.tolist())
    lengths = np.where(choice.cut > 0, choice.cut, documents.tokens)[choice.fate == TRAIN]
    held = [documents.tokens[choice.fate == VALIDATION], (documents.tokens - choice.cut + 1)[ends]]
    sizes = [int(documents.size[choice.fate == split].sum()) for split in (TRAIN, VALIDATION)]
    splits = {
        "train": _split_counts(lengths, sizes[0] - end_bytes),
        "validation": _split_counts(np.concatenate(held), sizes[1] + end_bytes),
    }
    left = {
        reason: {
            "documents": int((choice.fate == why).sum()),
            "bytes": int(documents.size[choice.fate == why].sum()),
        }
        for why, reason in LEFT_OUT.items()
    }
    return {"splits": splits, "left_out": left, "ends_held_back": len(ends)}


def _split_counts(lengths: Array, size: int) -> dict[str, int]:
    total, longest = int(lengths.sum()), int(lengths.max(initial=0))
    return {"documents": len(lengths), "tokens": total, "bytes": size, "longest": longest}


def _write_left_out(folder: Path, documents: Records, choice: Choice, sources: Sequence[Source]) -> None:
    """A line for each document that is in no split: where it was, why it is out, and which text it
    repeats."""

    def where(i: int) -> str:
        return place(sources[int(documents.source[i])], int(documents.number[i]))

    path = folder / LEFT_OUT_FILE
    path.unlink(missing_ok=True)
    out = np.flatnonzero(choice.fate > VALIDATION).tolist()
    if not out:
        return
    with path.open("w", encoding="utf-8") as file:
        for i in out:
            line = {"where": where(i), "why": LEFT_OUT[int(choice.fate[i])]}
            if choice.twin[i] != i:
                line["of"] = where(int(choice.twin[i]))
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
