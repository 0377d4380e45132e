"""One alternative of one prompt while it is being generated: tokens in, chunks of text out.

Knows when a text ends (stop strings, end-of-text, lengths) and how tokens become text; neither engine nor
strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeAlias

from gpt2.decoding import SamplingParams
from gpt2.decoding.stop import Matched, StopMatcher
from gpt2.decoding.tree import Emit
from gpt2.protocols import Chunk, Completion, Cut, FinishReason, StreamDecoder
from gpt2.tokenizer import Tokenizer

Event: TypeAlias = tuple[int, int, int, float, list[tuple[int, float]], int, str | None, BaseException | None]
"""What a mailbox brings of a request whose tokens the engine chooses: (request, alternative, token, logprob,
most probable, slides, why it ended, error)."""


class Run:
    """One alternative of one prompt while it is being generated."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_index: int,
        index: int,
        prompt_tokens: int,
        cut: Cut | None,
        seed: int,
        ends: frozenset[int],
        decoder: StreamDecoder | None,
        known_ids: int,
        room: int | None = None,
    ) -> None:
        """room: tokens that may come, where that is not params.max_new_tokens."""
        self.params = params
        self.prompt_index = prompt_index
        self.index = index
        self.slides = 0
        self.finish: FinishReason | None = None
        self._prompt_tokens = prompt_tokens
        self._cut = cut
        self._seed = seed
        self._ends = ends
        self._decoder = decoder
        self._known_ids = known_ids
        self._matcher = StopMatcher(params.stop)
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._top: list[tuple[tuple[int, float], ...]] = []
        self._stop: str | int | None = None
        self._score: float | None = None
        self._room = params.max_new_tokens if room is None else room
        self._deadline = None if params.max_time is None else monotonic() + params.max_time

    def accept(self, event: Event) -> Chunk:
        """Take the token that was chosen; the chunk holds the text that it makes certain."""
        _, _, token, logprob, top, self.slides, ended, error = event
        if error is not None:
            raise error
        if self.params.logprobs is not None:
            self._logprobs.append(logprob)
            self._top.append(tuple(top))
        text = self._push(token)
        if self.finish is None and ended == "context":
            self.finish = "context"
        return self.chunk(text, 1)

    def emitted(self, emit: Emit, slides: int) -> Chunk:
        """Take what a strategy says is certain; what comes after the end of the text is left away."""
        self.slides = max(self.slides, slides)
        text, taken = "", 0
        for at, token in enumerate(emit.tokens):
            if self.finish is not None:
                break
            if self.params.logprobs is not None and emit.logprobs is not None:
                self._logprobs.append(emit.logprobs[at])
                self._top.append(emit.top[at] if emit.top is not None else ())
            text += self._push(token)
            taken += 1
        if emit.finish is not None:
            self._score = emit.score
            # A strategy that ends a text with the last token that is allowed knows why better than the count.
            self.finish = emit.finish if self.finish in (None, "length") else self.finish
        return self.chunk(text, taken)

    def _push(self, token: int) -> str:
        """The text that one more token makes certain, and whether it ends the text."""
        self._tokens.append(token)
        text = ""
        if token in self._ends:
            self.finish = "eos"
        elif token in self.params.stop_token_ids:
            self.finish, self._stop = "stop", token
        else:
            text = self._feed(self._text_of(token))
        if self.finish is None and len(self._tokens) >= self._room:
            self.finish = "length"
        if self.finish is None and self._deadline is not None and monotonic() >= self._deadline:
            self.finish = "time"
        return text

    def chunk(self, text: str, new_tokens: int) -> Chunk:
        """The chunk of the last `new_tokens` tokens; when the run has ended, with all held text and the
        result."""
        if self.finish is not None:
            text += self._rest()
        self._texts.append(text)
        wanted = self.params.logprobs is not None
        first = len(self._tokens) - new_tokens
        return Chunk(
            text=text,
            tokens=tuple(self._tokens[first:]),
            logprobs=tuple(self._logprobs[first:]) if wanted else None,
            index=self.index,
            finish_reason=self.finish,
            completion=self._completion(self.finish) if self.finish is not None else None,
        )

    def _text_of(self, token: int) -> str:
        if self._decoder is None:
            return ""
        # An embedding may be padded beyond the vocabulary; such a row stands for no text.
        return self._decoder.push(token) if token < self._known_ids else "\ufffd"

    def _feed(self, text: str) -> str:
        return self._take(self._matcher.push(text))

    def _take(self, matched: Matched) -> str:
        if matched.stopped:
            self.finish, self._stop = "stop", matched.which
        return matched.emit

    def _rest(self) -> str:
        """What was held back, now that nothing can follow; it may still hold a stop string."""
        tail = self._decoder.finish() if self._decoder is not None else ""
        return self._take(self._matcher.push(tail)) + self._take(self._matcher.finish())

    def _completion(self, finish: FinishReason) -> Completion:
        wanted = self.params.logprobs is not None
        return Completion(
            text="".join(self._texts),
            tokens=tuple(self._tokens),
            finish_reason=finish,
            prompt_tokens=self._prompt_tokens,
            seed=self._seed,
            logprobs=tuple(self._logprobs) if wanted else None,
            top_logprobs=tuple(self._top) if wanted and self.params.logprobs else None,
            stop=self._stop,
            index=self.index,
            truncated=self._cut,
            slides=self.slides,
            score=self._score,
        )


def stops_in(params: SamplingParams, tokenizer: Tokenizer | None) -> Callable[[Sequence[int]], bool]:
    """Says of the tokens of a text, asked after each of them, whether a stop string is complete now."""
    stops = [stop.encode() for stop in params.stop]
    if tokenizer is None or not stops:
        return lambda tokens: False
    longest = max(len(stop) for stop in stops)

    def found(tokens: Sequence[int]) -> bool:
        # A token has at least one byte, so that a match which ends in the last one lies within these.
        tail = [token for token in tokens[-longest:] if token < tokenizer.vocab_size]
        text = tokenizer.decode_bytes(tail)
        return any(stop in text for stop in stops)

    return found
