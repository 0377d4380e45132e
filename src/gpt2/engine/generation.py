"""The generation loop: prompts in, chunks of text out, one native step per token for all active requests.

Knows when to stop and how tokens become text; how the next token is chosen is native/sampling, what the model
computes is native/model. A request's result depends on nothing but itself (DESIGN: the same bits every
time), so requests join and leave the batch freely.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.stop import Matched, StopMatcher
from gpt2.engine.prompts import Ids, eos_ids
from gpt2.protocols import Chunk, Completion, Cut, FinishReason, StreamDecoder
from gpt2.tokenizer import Tokenizer

MAX_BATCH = 32
"""Requests that are advanced together; more wait. A sequence of 1024 tokens of the 124M shape caches 75
MB."""


class Run:
    """One alternative of one prompt while it is being generated."""

    def __init__(
        self,
        request: _native.Request,
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
        self.request = request
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

    def make_room(self, window: int) -> bool:
        """Slide a full window if the request wants that. False when it is full and the run ends here."""
        if self.request.window <= window:
            return True
        if self.params.overflow != "slide":
            return False
        self.request.slide(max(1, window // 2))
        self.slides += 1
        return True

    def accept(self, choice: tuple[int, float, list[tuple[int, float]]], window: int) -> Chunk:
        """Take the token that was chosen; the chunk holds the text that it makes certain."""
        token, logprob, top = choice
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
        if self.finish is None and not self.make_room(window):
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
    """Continues prompts with one native engine. Iterating gives (prompt index, chunk) as they come."""

    def __init__(
        self,
        native: _native.Engine,
        config: GPT2Config,
        tokenizer: Tokenizer | None,
        params: SamplingParams,
        seed: int,
    ) -> None:
        self._native = native
        self._config = config
        self._tokenizer = tokenizer
        self._params = params
        self._seed = seed
        eos = {
            *eos_ids(config),
            *((tokenizer.eos_id,) if tokenizer is not None and tokenizer.eos_id is not None else ()),
        }
        self._ends: frozenset[int] = frozenset() if params.ignore_eos else frozenset(eos)

    def run(self, prompts: Sequence[tuple[Ids, Cut | None]]) -> Iterator[tuple[int, Chunk]]:
        """Every chunk of every alternative of every prompt; closing the iterator drops the rest."""
        waiting = deque(enumerate(prompts))
        active: list[Run] = []
        window = self._config.n_positions
        while waiting or active:
            while waiting and len(active) < MAX_BATCH:
                at, (ids, cut) = waiting.popleft()
                runs = self._begin(at, ids, cut)
                if self._params.max_new_tokens == 0:
                    yield from self._nothing(runs)
                else:
                    active += runs
            if not active:
                continue
            choices = self._native.step([run.request for run in active])
            for run, choice in zip(active, choices, strict=True):
                yield run.prompt_index, run.accept(choice, window)
            active = [run for run in active if run.finish is None]

    def _nothing(self, runs: list[Run]) -> Iterator[tuple[int, Chunk]]:
        for run in runs:
            run.finish = "length"
            yield run.prompt_index, run.chunk("", 0)

    def _begin(self, at: int, ids: Ids, cut: Cut | None) -> list[Run]:
        """The n alternatives of one prompt. The prompt is encoded once; each gets a copy of its cache."""
        params = self._params
        first = _native.Request(self._native, ids, native_params(params, self._seed, self._ends), 0)
        requests = [first]
        if params.n > 1 and params.max_new_tokens > 0:
            self._native.prefill([first])
        requests += [first.fork(k) for k in range(1, params.n)]
        return [
            Run(
                request,
                params,
                prompt_index=at,
                index=k,
                prompt_tokens=int(ids.size),
                cut=cut,
                seed=self._seed,
                ends=self._ends,
                decoder=self._tokenizer.stream() if self._tokenizer is not None else None,
                known_ids=self._tokenizer.vocab_size if self._tokenizer is not None else 0,
            )
            for k, request in enumerate(requests)
        ]
