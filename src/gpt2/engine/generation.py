"""The generation loop: prompts in, chunks of text out.

A prompt is either plain (the engine chooses its tokens) or driven by a strategy (decoding/strategies/table.py
says which options mean which); all share the engine's steps. Which requests run together, in which memory, is
native/engine and native/scheduler; how the next token is chosen is native/sampling; what the model computes
is native/model. A request's result depends on nothing but itself (the same bits every time), so requests join
and leave the batch freely, from any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.healing import Healed
from gpt2.decoding.strategies.speculation import assisted
from gpt2.decoding.strategies.table import strategy_for
from gpt2.decoding.tree import MakeStrategy
from gpt2.engine.branches import Driver, NativeTree
from gpt2.engine.native_params import native_params
from gpt2.engine.post import Post
from gpt2.engine.prompts import Ids, end_ids
from gpt2.engine.requests import DrivenRequest, Key, PlainRequest, Request
from gpt2.engine.run import Run, stops_in
from gpt2.errors import InvalidRequest, Overloaded
from gpt2.protocols import Chunk, Cut
from gpt2.tokenizer import Tokenizer

IN_FLIGHT = 256
"""Alternatives that one call keeps in the engine at a time: a full batch. Its other prompts wait outside, so
that they do not fill the queue."""


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
        strategy: MakeStrategy | None = None,
        slow: bool = False,
        assistant: _native.Engine | None = None,
        heal: Callable[[Sequence[int]], Healed] | None = None,
        adapter: _native.Adapter | None = None,
    ) -> None:
        """strategy: instead of the one that the options ask for; slow: it runs a caller's code; assistant:
        guesses the tokens; heal: how it takes tokens of a prompt back, if it does; adapter: of `native`."""
        self._adapter = adapter
        self._native = native
        self._strategy = strategy if strategy is not None else strategy_for(params)
        self._slow = slow
        self._assistant = assistant
        self._heal = heal
        self._vocab_size = config.vocab_size
        self._tokenizer = tokenizer
        self._params = params
        self._seed = seed
        self._salt = salt
        self._timeout = timeout
        self._ends: frozenset[int] = frozenset() if params.ignore_eos else end_ids(config, tokenizer)
        self._native_params = native_params(params, seed, self._ends, tokenizer)

    @property
    def native(self) -> _native.Engine:
        return self._native

    def run(self, prompts: Sequence[tuple[Ids, Cut | None]]) -> Iterator[tuple[int, Chunk]]:
        """(prompt index, chunk) of every alternative of every prompt, as they come; closing the iterator
        abandons the rest."""
        waiting = deque(enumerate(prompts))
        active: dict[Key, Request] = {}
        post = Post(self._native)
        try:
            while waiting or active:
                while waiting and sum(request.live for request in active.values()) < IN_FLIGHT:
                    at, (ids, cut) = waiting[0]
                    if self.empty:
                        yield from self.nothing(at, ids, cut)
                    elif (request := self._begin(post, at, ids, cut, bool(active))) is None:
                        break
                    else:
                        active |= dict.fromkeys(request.keys, request)
                        yield from request.start()
                        _remove_if_ended(active, request)
                    waiting.popleft()
                for key, event in post.wait() if active else ():
                    if (request := active.get(key)) is None:
                        continue  # it ended before the engine knew
                    yield from request.accept(key, event)
                    _remove_if_ended(active, request)
        finally:
            for request in active.values():
                request.close()
            post.close()

    def _begin(self, post: Post, at: int, ids: Ids, cut: Cut | None, may_wait: bool) -> Request | None:
        """Submit a prompt; None when the queue is full and it may be tried again."""
        try:
            return self.submit(post, at, ids, cut)
        except Overloaded:
            if may_wait:
                return None
            raise

    def submit(self, post: Post, at: int, ids: Ids, cut: Cut | None) -> Request:
        """Submit a prompt. The prompt is encoded once for all its alternatives."""
        room = self._room(ids)
        drafts = self._tree(post, self._assistant) if self._assistant is not None else None
        make = self._strategy if drafts is None else assisted(drafts)
        if make is None:
            _, mailbox = post.box(self._native)
            number = mailbox.submit(
                ids,
                self._native_params,
                max_new_tokens=room,
                alternatives=self._params.n,
                slide=self._params.overflow == "slide",
                salt=self._salt,
                timeout=self._timeout or 0.0,
                adapter=self._adapter,
            )
            return PlainRequest(mailbox, number, self._runs(at, ids, cut))
        try:
            tree = self._tree(post, self._native)
        except BaseException:
            if drafts is not None:
                drafts.mailbox.cancel(drafts.request)
            raise
        trees = [tree] if drafts is None else [tree, drafts]
        params = self._params
        if room != params.max_new_tokens:
            params = params.replace(max_new_tokens=room, min_new_tokens=min(room, params.min_new_tokens))
        driver = Driver(make(tree, ids.tolist(), params, self._ends))
        return DrivenRequest(trees, driver, self._runs(at, ids, cut), slow=self._slow)

    def _tree(self, post: Post, native: _native.Engine) -> NativeTree:
        place, mailbox = post.box(native)
        return NativeTree(
            mailbox,
            self._vocab_size,
            self._params_of,
            stops_in(self._params, self._tokenizer),
            place=place,
            slide=self._params.overflow == "slide",
            salt=self._salt,
            timeout=self._timeout,
            adapter=self._adapter if native is self._native else None,
        )

    def _params_of(self, params: SamplingParams | None) -> _native.SamplerParams:
        """Those of a branch; they draw with the request's seed unless they name one."""
        if params is None or params is self._params:
            return self._native_params
        seed = self._seed if params.seed is None else params.seed
        return native_params(params, seed, self._ends, self._tokenizer)

    def _room(self, ids: Ids) -> int:
        """Tokens that may be generated after this prompt."""
        params = self._params
        if params.max_length is None:
            return params.max_new_tokens
        if ids.size >= params.max_length:
            raise InvalidRequest(
                "max_length leaves no room for a token",
                got=f"max_length={params.max_length}, a prompt of {ids.size} tokens",
                expected="more than the prompt has",
                hint="max_new_tokens counts without the prompt",
            )
        return min(params.max_new_tokens, params.max_length - int(ids.size))

    def nothing(self, at: int, ids: Ids, cut: Cut | None) -> Iterator[tuple[int, Chunk]]:
        """What a prompt gets for max_new_tokens=0."""
        for run in self._runs(at, ids, cut):
            run.finish = "length"
            yield at, run.chunk("", 0)

    def _runs(self, at: int, ids: Ids, cut: Cut | None) -> list[Run]:
        healed = self._heal(ids.tolist()) if self._heal is not None else Healed(ids.tolist(), b"")
        skip = len(healed.rest)
        return [
            Run(
                self._params,
                prompt_index=at,
                index=k,
                prompt_tokens=len(healed.kept),
                cut=cut,
                seed=self._seed,
                ends=self._ends,
                decoder=self._tokenizer.stream(skip=skip) if self._tokenizer is not None else None,
                known_ids=self._tokenizer.vocab_size if self._tokenizer is not None else 0,
                room=self._room(ids),
            )
            for k in range(self._params.n)
        ]

    @property
    def empty(self) -> bool:
        """No token is asked for."""
        return self._params.max_new_tokens == 0


def _remove_if_ended(active: dict[Key, Request], request: Request) -> None:
    if not request.live:
        for key in request.keys:
            active.pop(key, None)
