"""A model and a tokenizer that fit on a page, for tests of what stands above them.

The tokenizer has one token per byte and an end-of-text token; the model continues with a fixed text whatever
the prompt is.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gpt2.protocols import Chunk, Completion, NextToken, Score, Suggestion

EOT = 256


class ByteStream:
    """The incremental decoder of ByteTokenizer."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int, /) -> str:
        return self._decoder.decode(bytes([id]) if id < EOT else b"")

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Ids are bytes; 256 is <|endoftext|>."""

    vocab_size = 257
    eos_id = EOT

    def encode(self, text: str, *, allowed_special: Collection[str] = ()) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def encode_with_offsets(
        self, text: str, *, allowed_special: Collection[str] = ()
    ) -> tuple[list[int], list[tuple[int, int]]]:
        spans = [(i, i + 1) for i, c in enumerate(text) for _ in c.encode()]
        return self.encode(text), spans

    def token_bytes(self, id: int, /) -> bytes:
        return bytes([id]) if id < EOT else b"<|endoftext|>"

    def stream(self) -> ByteStream:
        return ByteStream()


class FakeModel:
    """Continues every prompt with `text`, byte by byte, alternatives in turn; every token has probability
    1/2."""

    tokenizer = ByteTokenizer()

    def __init__(self, text: str = ", there was a cat.\n") -> None:
        self.text = text
        self.calls: list[tuple[str, Any]] = []

    def stream(self, prompt: str, params: Any = None, **options: Any) -> Iterator[Chunk]:
        self.calls.append((prompt, params))
        n, seed = params.n, params.seed or 0
        for step in range(len(self.text)):
            last = step == len(self.text) - 1
            for index in range(n):
                done = self.completion(index, seed) if last else None
                yield Chunk(
                    text=self.text[step],
                    tokens=tuple(self.text[step].encode()),
                    index=index,
                    finish_reason="length" if last else None,
                    completion=done,
                )

    def completion(self, index: int, seed: int) -> Completion:
        tokens = tuple(self.text.encode())
        return Completion(
            text=self.text, tokens=tokens, finish_reason="length", prompt_tokens=3, seed=seed, index=index
        )

    def next_tokens(self, prompt: str, n: int = 10) -> list[NextToken]:
        ids = [ord("a"), ord("\n"), 0xE2][:n]
        return [
            NextToken(id=i, text=chr(i), probability=2.0**-rank, logprob=-rank * math.log(2))
            for rank, i in enumerate(ids, start=1)
        ]

    def suggest(self, prefix: str, n: int = 3, **options: Any) -> list[Suggestion]:
        self.suggested = prefix, n, options
        texts = ("l\n", " é")[:n]
        return [Suggestion(text=text, logprob=-rank / 2, tokens=(rank,)) for rank, text in enumerate(texts)]

    def score(self, text: str, *, stride: int | None = None) -> Score:
        ids = text.encode()
        logprobs = tuple(-math.log(2) * i for i in range(len(ids)))
        texts = tuple(bytes([i]).decode("utf-8", "replace") for i in ids)
        total, count = sum(logprobs), max(len(ids), 1)
        return Score(
            tokens=tuple(ids),
            texts=texts,
            logprobs=logprobs,
            total=total,
            perplexity=math.exp(-total / count),
            bits_per_byte=-total / math.log(2) / count,
        )
