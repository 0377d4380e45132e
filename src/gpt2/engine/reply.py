"""A reply while it is being made: an iterator of chunks that tells its session how it ended.

It ends in one of three ways: at its end; by close(), which keeps what was handed out; by an error, which
leaves no trace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from gpt2.decoding import SamplingParams
from gpt2.errors import InvalidRequest
from gpt2.protocols import Chunk, Completion, FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a session has decided before the first chunk."""

    role: str | None
    message: str
    prompt: str
    ids: list[int]
    """Of `prompt`."""
    window: int
    """Where the model's window begins."""
    moved: int
    """1 if it was moved there for this reply."""
    params: SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model has said when a reply has ended."""

    tokens: list[int]
    text: str
    finish_reason: FinishReason | None = None
    stop: str | int | None = None


class Reply:
    """Iterate it with `for` (or `async for`, if it came from astream()), or close it early."""

    def __init__(
        self,
        begun: Begun,
        chunks: Iterator[Chunk] | AsyncIterator[Chunk],
        ended: Callable[[Begun, Said | None], None],
        *,
        pieces_count: bool,
    ) -> None:
        """pieces_count: whether somebody sees the chunks, so that they stay where the rest does not come."""
        self._begun = begun
        self._pieces_count = pieces_count
        self._chunks: Any = chunks
        self._ended = ended
        self._over = False
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self.completion: Completion | None = None
        """The whole reply, once it has come to its end."""

    def whole(self) -> Completion:
        """The completion of a reply that was read to its end."""
        if self.completion is None:
            raise InvalidRequest("the reply was not read to its end", hint="iterate it")
        return self.completion

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        try:
            return self._taken(next(self._chunks))
        except Exception as error:
            if not isinstance(error, StopIteration):
                self._end(None)
            raise
        except BaseException:  # Ctrl-C
            self._keep()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        try:
            return self._taken(await anext(self._chunks))
        except Exception as error:
            if not isinstance(error, StopAsyncIteration):
                self._end(None)
            raise
        except BaseException:
            self._keep()
            raise

    def close(self) -> None:
        """End the reply here, and keep what was handed out."""
        if hasattr(self._chunks, "close"):
            self._chunks.close()
        self._keep()

    async def aclose(self) -> None:
        """close() for asyncio."""
        await self._chunks.aclose()
        self._keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._keep()

    def _taken(self, chunk: Chunk) -> Chunk:
        self._tokens += chunk.tokens
        self._texts.append(chunk.text)
        if chunk.completion is None:
            return chunk
        self.completion = replace(chunk.completion, slides=chunk.completion.slides + self._begun.moved)
        whole = self.completion
        self._end(
            Said(tokens=self._tokens, text=whole.text, finish_reason=whole.finish_reason, stop=whole.stop)
        )
        return replace(chunk, completion=whole)

    def _keep(self) -> None:
        said = Said(tokens=self._tokens, text="".join(self._texts))
        self._end(said if said.tokens and self._pieces_count else None)

    def _end(self, said: Said | None) -> None:
        if not self._over:
            self._over = True
            self._ended(self._begun, said)
