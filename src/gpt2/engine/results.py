"""Chunks as they come from the engine, in the forms in which callers get them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from gpt2.protocols import Chunk, Completion


def results(chunks: Iterable[tuple[int, Chunk]], one: bool) -> Completion | list[Completion]:
    done = {(at, c.index): c.completion for at, c in chunks if c.completion is not None}
    ordered = [done[key] for key in sorted(done)]
    return ordered[0] if one else ordered


def without_index(chunks: Iterator[tuple[int, Chunk]]) -> Iterator[Chunk]:
    try:
        for _, chunk in chunks:
            yield chunk
    finally:
        chunks.close()  # type: ignore[attr-defined]


async def without_index_async(chunks: AsyncIterator[tuple[int, Chunk]]) -> AsyncIterator[Chunk]:
    try:
        async for _, chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]
