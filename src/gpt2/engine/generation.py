"""The generation loop: prompts in, chunks of text out.

Knows when to stop and how tokens become text. Which requests run together, in which memory, is native/engine
and native/scheduler; how the next token is chosen is native/sampling; what the model computes is
native/model. A request's result depends on nothing but itself (the same bits every time), so requests join
and leave the batch freely, from any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.stop import Matched, StopMatcher
from gpt2.engine.prompts import Ids, eos_ids
from gpt2.errors import Overloaded
from gpt2.protocols import Chunk, Completion, Cut, FinishReason, StreamDecoder
from gpt2.tokenizer import Tokenizer

Event: TypeAlias = tuple[int, int, int, float, list[tuple[int, float]], int, str | None, BaseException | None]
"""What a mailbox brings: (request, alternative, token, logprob, most probable, slides, why it ended,
error)."""

Key: TypeAlias = tuple[int, int]
"""A request's number and one of its alternatives."""

IN_FLIGHT = 256
"""Alternatives that one call keeps in the engine at a time: a full batch. Its other prompts wait outside, so
that they do not fill the queue."""


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
    ) -> None:
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

    def accept(self, event: Event) -> Chunk:
        """Take the token that was chosen; the chunk holds the text that it makes certain."""
        _, _, token, logprob, top, self.slides, ended, error = event
        if error is not None:
            raise error
        self._tokens.append(token)
        if self.params.logprobs is not None:
            self._logprobs.append(logprob)
            self._top.append(tuple(top))
        text = ""
        if token in self._ends:
            self.finish = "eos"
        elif token in self.params.stop_token_ids:
            self.finish, self._stop = "stop", token
        else:
            text = self._feed(self._text_of(token))
        if self.finish is None and len(self._tokens) >= self.params.max_new_tokens:
            self.finish = "length"
        if self.finish is None and ended == "context":
            self.finish = "context"
        return self.chunk(text, 1)

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
        )


def native_params(params: SamplingParams, seed: int, ends: frozenset[int]) -> _native.SamplerParams:
    """The part of the options that the native sampler takes; `ends` are the end-of-text ids."""
    native = _native.SamplerParams()
    native.temperature = params.temperature
    native.top_k = params.top_k
    native.top_p = params.top_p
    native.min_p = params.min_p
    native.repetition_penalty = params.repetition_penalty
    native.no_repeat_ngram_size = params.no_repeat_ngram_size
    native.min_new_tokens = params.min_new_tokens
    native.stop_token_ids = sorted({*ends, *params.stop_token_ids})
    native.seed = seed
    native.logprobs = -1 if params.logprobs is None else params.logprobs
    return native


class Generation:
    """Continues prompts with one native engine, all with the same options."""

    def __init__(
        self,
        native: _native.Engine,
        config: GPT2Config,
        tokenizer: Tokenizer | None,
        params: SamplingParams,
        seed: int,
        *,
        salt: str = "",
        timeout: float | None = None,
    ) -> None:
        self._native = native
        self._tokenizer = tokenizer
        self._params = params
        self._seed = seed
        self._salt = salt
        self._timeout = timeout
        eos = {
            *eos_ids(config),
            *((tokenizer.eos_id,) if tokenizer is not None and tokenizer.eos_id is not None else ()),
        }
        self._ends: frozenset[int] = frozenset() if params.ignore_eos else frozenset(eos)
        self._native_params = native_params(params, seed, self._ends)

    @property
    def native(self) -> _native.Engine:
        return self._native

    def run(self, prompts: Sequence[tuple[Ids, Cut | None]]) -> Iterator[tuple[int, Chunk]]:
        """(prompt index, chunk) of every alternative of every prompt, as they come; closing the iterator
        abandons the rest."""
        waiting = deque(enumerate(prompts))
        active: dict[Key, Run] = {}
        mailbox = _native.Mailbox(self._native)
        try:
            while waiting or active:
                while waiting and len(active) < IN_FLIGHT:
                    at, (ids, cut) = waiting[0]
                    if self._params.max_new_tokens == 0:
                        yield from self.nothing(at, ids, cut)
                    elif (begun := self._begin(mailbox, at, ids, cut, bool(active))) is None:
                        break
                    else:
                        active |= begun
                    waiting.popleft()
                for event in mailbox.wait() if active else ():
                    if (run := active.get(event[:2])) is None:
                        continue  # a stop string ended it before the engine knew
                    yield run.prompt_index, run.accept(event)
                    if run.finish is not None:
                        del active[event[:2]]
                        mailbox.cancel(*event[:2])
        finally:
            mailbox.close()

    def _begin(
        self, mailbox: _native.Mailbox, at: int, ids: Ids, cut: Cut | None, may_wait: bool
    ) -> dict[Key, Run] | None:
        """Submit a prompt; None when the queue is full and it may be tried again."""
        try:
            return self.submit(mailbox, at, ids, cut)
        except Overloaded:
            if may_wait:
                return None
            raise

    def submit(self, mailbox: _native.Mailbox, at: int, ids: Ids, cut: Cut | None) -> dict[Key, Run]:
        """Submit a prompt. The prompt is encoded once for all its alternatives."""
        request = mailbox.submit(
            ids,
            self._native_params,
            max_new_tokens=self._params.max_new_tokens,
            alternatives=self._params.n,
            slide=self._params.overflow == "slide",
            salt=self._salt,
            timeout=self._timeout or 0.0,
        )
        return {(request, run.index): run for run in self._runs(at, ids, cut)}

    def nothing(self, at: int, ids: Ids, cut: Cut | None) -> Iterator[tuple[int, Chunk]]:
        """What a prompt gets for max_new_tokens=0."""
        for run in self._runs(at, ids, cut):
            run.finish = "length"
            yield at, run.chunk("", 0)

    def _runs(self, at: int, ids: Ids, cut: Cut | None) -> list[Run]:
        return [
            Run(
                self._params,
                prompt_index=at,
                index=k,
                prompt_tokens=int(ids.size),
                cut=cut,
                seed=self._seed,
                ends=self._ends,
                decoder=self._tokenizer.stream() if self._tokenizer is not None else None,
                known_ids=self._tokenizer.vocab_size if self._tokenizer is not None else 0,
            )
            for k in range(self._params.n)
        ]

    @property
    def empty(self) -> bool:
        """No token is asked for."""
        return self._params.max_new_tokens == 0
