"""LanguageModel: one loaded GPT-2 and everything that can be asked of it.

A thin layer: prompts.py makes ids, generation.py runs the loop, the native engine computes. Letters: B
texts, T tokens, C = n_embd, L = n_layer, V = vocab_size.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams, Template, as_template
from gpt2.decoding.params import Truncate
from gpt2.decoding.strategies.grammar import structure_of
from gpt2.engine import checks
from gpt2.engine.adapters import AdapterInfo, Adapters
from gpt2.engine.asynchronous import Dispatcher
from gpt2.engine.generation import Generation
from gpt2.engine.helpers import NO_HELPERS, Helpers
from gpt2.engine.prompts import (
    Ids,
    Prompt,
    as_ids,
    encode_prompt,
    end_ids,
    is_one_prompt,
    too_long,
)
from gpt2.engine.results import results, without_index, without_index_async
from gpt2.engine.scoring import piece, pooled, score_text
from gpt2.engine.session import Session
from gpt2.engine.settling import settle
from gpt2.engine.stats import EngineStats
from gpt2.engine.structure import Structures
from gpt2.engine.suggest import Suggester
from gpt2.errors import InvalidRequest, TokenizerError
from gpt2.protocols import (
    Chunk,
    Completion,
    Cut,
    LogitsProcessor,
    NextToken,
    Pooling,
    Score,
    StoppingCriteria,
    Suggestion,
)
from gpt2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt2.engine.identity import Identity
    from gpt2.weights.adapters import Adapter

Floats = npt.NDArray[np.float32]


class LanguageModel:
    """A GPT-2 on the native engine. Made by gpt2.load().

    Safe to call from any number of threads and coroutines: their requests are computed together.
    """

    def __init__(
        self,
        *,
        config: GPT2Config,
        tokenizer: Tokenizer | None,
        native: _native.Engine,
        name: str,
        path: Path,
        weights: str,
        cache: str,
    ) -> None:
        self.config = config
        self.name = name
        """What load() was asked for."""
        self.path = path
        """Where the weights came from."""
        self.weights = weights
        """How the matrices are kept: float32, bfloat16, int8 or int4."""
        self.cache = cache
        """How keys and values are kept: float32, bfloat16 or int8."""
        self._tokenizer = tokenizer
        self._native = native
        self._structures = Structures(config, tokenizer)
        self._suggester = Suggester(native, config.vocab_size, end_ids(config, tokenizer))
        self._async = Dispatcher(native)
        self._adapters = Adapters(native, config)
        self._identity: Identity | None = None

    def __repr__(self) -> str:
        return (
            f"<gpt2.LanguageModel {self.name!r}: {self.config.n_params:,} parameters, {self.weights}, "
            f"{self.isa}, {self.threads} threads>"
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises TokenizerError when its directory has none."""
        if self._tokenizer is None:
            raise TokenizerError(
                "the model has no tokenizer",
                where=str(self.path),
                expected="tokenizer.json, vocab.json + merges.txt, or encoder.json + vocab.bpe",
                hint="copy the tokenizer's files there, or give token ids instead of text",
            )
        return self._tokenizer

    @property
    def threads(self) -> int:
        return self._native.threads

    @property
    def isa(self) -> str:
        """The instruction set in use: generic, avx2, avx512, avx512bf16, amx or neon."""
        return self._native.isa

    def stats(self) -> EngineStats:
        """How full the engine is and what it has done."""
        return EngineStats(**self._native.stats())

    def load_adapter(self, source: str | os.PathLike[str] | Adapter, name: str | None = None) -> AdapterInfo:
        """Load a LoRA or DoRA adapter for calls that name it: `generate(..., adapter=name)`.

        The weights stay as they are, so that calls with other adapters, or with none, share the model and its
        batches; each gets the bits that it gets alone.

        Args:
            source: a directory with adapter_config.json and adapter_model.safetensors, as PEFT and this
                project's trainer write them (docs/formats/adapter.md); or such an adapter in memory.
            name: None is the directory's own.

        Raises:
            ModelNotFound, CorruptFile, UnsafeFile, ConfigError (a setting that cannot be honoured, by name),
            WeightsError (it does not fit the model), InvalidRequest (the name is taken), OutOfMemory.
        """
        return self._adapters.load(source, name)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Requests that have begun keep it to their end; then its memory is free.

        Raises InvalidRequest for a name that is not loaded.
        """
        self._suggester.forget(self._adapters.unload(name))

    @property
    def adapters(self) -> dict[str, AdapterInfo]:
        """The loaded adapters by name."""
        return self._adapters.infos

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        preset: str | None = None,
        salt: str = "",
        timeout: float | None = None,
        adapter: str | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        assistant_model: LanguageModel | None = None,
        **options: Any,
    ) -> Completion | list[Completion]:
        """Continue a prompt (text or token ids), or each of a sequence of them.

        Options are the fields of SamplingParams, on top of `params` or a `preset`. One prompt with n == 1
        gives a Completion; otherwise a list, the n alternatives of a prompt side by side. Each prompt gets
        the result that it gets alone.

        Args:
            salt: computed prefixes are shared with requests of the same salt alone. Nobody learns from the
                time of an answer what others with another salt have asked.
            timeout: seconds that a prompt may wait in the queue before it is begun; None is any time.
            adapter: the name of a loaded adapter that changes the model for this call (load_adapter).
            logits_processors: change the logits before each draw, in their order and before the rules of the
                options. Called from whatever thread runs the request.
            stopping_criteria: end a text, beside stop strings and lengths; finish_reason "stop".
            assistant_model: a smaller model with the same vocabulary that guesses the next tokens; the text
                is the same, sooner if many guesses are right.

        Raises:
            InvalidRequest (PromptTooLong, UnknownOption), Overloaded, DeadlineExpired, OutOfMemory.
        """
        one, prompts = _prompts(prompt)
        helpers = Helpers(logits_processors, stopping_criteria, assistant_model, self._adapters.get(adapter))
        chosen = _params(params, preset, options)
        chunks = self._generation(chosen, salt, timeout, helpers=helpers).run(self._encoded(prompts, chosen))
        return results(list(chunks), one and chosen.n == 1)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        preset: str | None = None,
        salt: str = "",
        timeout: float | None = None,
        adapter: str | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        assistant_model: LanguageModel | None = None,
        **options: Any,
    ) -> Iterator[Chunk]:
        """The same continuation as generate(), piece by piece; with n > 1 the alternatives take turns.

        Wrong arguments raise here, not at the first piece. Close the iterator to abandon the rest.
        """
        helpers = Helpers(logits_processors, stopping_criteria, assistant_model, self._adapters.get(adapter))
        chosen = _params(params, preset, options)
        chunks = self._generation(chosen, salt, timeout, helpers=helpers).run(self._encoded([prompt], chosen))
        return without_index(chunks)

    async def agenerate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        preset: str | None = None,
        salt: str = "",
        timeout: float | None = None,
        adapter: str | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        assistant_model: LanguageModel | None = None,
        **options: Any,
    ) -> Completion | list[Completion]:
        """generate() for asyncio. Cancelling the task frees what its requests hold within one step."""
        one, prompts = _prompts(prompt)
        helpers = Helpers(logits_processors, stopping_criteria, assistant_model, self._adapters.get(adapter))
        chosen = _params(params, preset, options)
        chunks = [c async for c in self._async_chunks(chosen, salt, timeout, helpers, prompts)]
        return results(chunks, one and chosen.n == 1)

    def astream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        preset: str | None = None,
        salt: str = "",
        timeout: float | None = None,
        adapter: str | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        assistant_model: LanguageModel | None = None,
        **options: Any,
    ) -> AsyncIterator[Chunk]:
        """stream() for asyncio. A reader that lags is waited for; the others go on. A grammar is read at the
        first piece, on another thread, and raises there if it is wrong."""
        helpers = Helpers(logits_processors, stopping_criteria, assistant_model, self._adapters.get(adapter))
        chosen = _params(params, preset, options)
        return without_index_async(self._async_chunks(chosen, salt, timeout, helpers, [prompt]))

    def _async_chunks(
        self,
        params: SamplingParams,
        salt: str,
        timeout: float | None,
        helpers: Helpers,
        prompts: Sequence[Prompt],
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """(prompt index, chunk), for asyncio. A grammar may take seconds to be understood: not on the
        loop."""
        encoded = self._encoded(prompts, params)
        make = partial(self._generation, params, salt, timeout, helpers=helpers)
        if structure_of(params) is not None:
            return self._async.run_later(make, encoded)
        return self._async.run(make(), encoded)

    def session(
        self,
        params: SamplingParams | None = None,
        *,
        preset: str | None = None,
        template: Template | str | os.PathLike[str] = "plain",
        salt: str = "",
        adapter: str | None = None,
        **options: Any,
    ) -> Session:
        """A new text in turns, for chats and games: turn n costs what its own tokens cost.

        Args:
            params, preset, options: for its replies, as in generate(). Without a seed one is chosen at
                random; Session.seed is it.
            template: how messages are written: a Template, the name of a built-in one, or a .toml file.
            salt, adapter: as in generate().
        """
        self._adapters.get(adapter)
        chosen = _params(params, preset, options)
        seed = chosen.seed if chosen.seed is not None else secrets.randbits(63)
        return Session(self, chosen, seed=seed, template=as_template(template), salt=salt, adapter=adapter)

    def restore_session(self, path: str | os.PathLike[str], *, salt: str = "") -> Session:
        """A session from the file that Session.save() wrote. It goes on with the bits that it would have had.

        Raises SessionError for a file that cannot be used, SessionMismatch for one of another model (weights,
        dtype, cache) or of a build that computes other bits.
        """
        from gpt2.engine.session_file import restore

        return restore(self, path, salt)

    def identity(self) -> Identity:
        """What names the model and its arithmetic: the hashes of its files, of what it computes, and how its
        numbers are kept. Taken at the first call, which reads every byte of the weights; then kept."""
        from gpt2.engine.identity import identity

        if self._identity is None:
            self._identity = identity(self)
        return self._identity

    def _generation(
        self,
        params: SamplingParams,
        salt: str,
        timeout: float | None,
        helpers: Helpers = NO_HELPERS,
    ) -> Generation:
        if self._tokenizer is None and params.stop:
            raise InvalidRequest(
                "stop strings need a tokenizer, and this model has none", hint="stop_token_ids"
            )
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        settled = settle(params, seed, self.config, self._tokenizer)
        return Generation(
            self._native,
            self.config,
            self._tokenizer,
            settled,
            seed,
            salt=checks.salt(salt),
            timeout=checks.seconds("timeout", timeout),
            heal=self._structures.heal if params.token_healing else None,
            strategy=helpers.strategy(self._structures.strategy_for(settled), settled),
            # A caller's code, and a stranger's grammar, may take any time.
            slow=helpers.custom or structure_of(params) is not None,
            assistant=helpers.assistant_of(self),
            adapter=helpers.adapter,
        )

    def _encoded(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[tuple[Ids, Cut | None]]:
        return [encode_prompt(prompt, params, self.config, self._tokenizer) for prompt in prompts]

    def logits(
        self, ids: Sequence[int] | npt.NDArray[Any], *, first: int = 0, adapter: str | None = None
    ) -> Floats:
        """Unnormalised log-probabilities after each position, float32 [T, V]; with `first`, of positions
        first.. alone."""
        array = self._window_ids(ids)
        checked = checks.whole("first", first, 0, int(array.size) - 1, source="the number of ids")
        return cast(Floats, self._native.logits(array, checked, self._adapters.get(adapter)))

    def hidden_states(self, ids: Sequence[int] | npt.NDArray[Any], *, adapter: str | None = None) -> Floats:
        """The residual stream, float32 [L + 1, T, C]: after the embedding, after each block, and the last
        one after LN_f.

        The same as transformers' hidden_states with output_hidden_states=True.
        """
        return cast(Floats, self._native.hidden_states(self._window_ids(ids), self._adapters.get(adapter)))

    def next_tokens(self, prompt: Prompt, n: int = 10, *, adapter: str | None = None) -> list[NextToken]:
        """The `n` most probable next tokens, best first; their probabilities are those of the model
        itself."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidRequest("n", got=repr(n), expected="a whole number of at least 1")
        ids, _ = encode_prompt(prompt, SamplingParams(), self.config, self._tokenizer)
        logits = self._native.logits(ids, ids.size - 1, self._adapters.get(adapter))[0].astype(np.float64)
        logprobs = logits - (logits.max() + math.log(np.exp(logits - logits.max()).sum()))
        best = np.argsort(-logprobs, kind="stable")[:n]
        return [
            NextToken(
                id=int(i),
                text=piece(int(i), self._tokenizer),
                probability=math.exp(logprobs[i]),
                logprob=float(logprobs[i]),
            )
            for i in best
        ]

    def suggest(
        self,
        prefix: Prompt,
        n: int = 3,
        *,
        max_new_tokens: int = 5,
        truncate: Truncate | None = None,
        salt: str = "",
        adapter: str | None = None,
    ) -> list[Suggestion]:
        """At most `n` distinct short continuations of a text that may end within a word, best first.

        The last tokens of the prefix are taken back (token healing), the most probable first tokens begin one
        alternative each, and each goes on greedily. Fewer than n come back only where there are no more. The
        prefix stays in the engine: the same text with a few letters more costs only what is new.

        Args:
            n: 1 to 256, as many as go through the model together.
            max_new_tokens: of each alternative, with the tokens that repeat the end of the prefix.
            truncate: where to cut a prefix that does not fit the window; None: it is PromptTooLong.
            salt, adapter: as in generate().

        Raises:
            InvalidRequest (PromptTooLong), Overloaded, OutOfMemory.
        """
        checks.whole("n", n, 1, 256)
        params = SamplingParams(
            temperature=0.0, n=n, max_new_tokens=max_new_tokens, logprobs=0, truncate=truncate
        )
        ids, _ = encode_prompt(prefix, params, self.config, self._tokenizer)
        healed = self._structures.heal(ids.tolist())
        return self._suggester.suggest(
            healed, self._structures.index, params, checks.salt(salt), self._adapters.get(adapter)
        )

    def score(self, text: Prompt, *, stride: int | None = None, adapter: str | None = None) -> Score:
        """The log-probability of each token of a text; the first one follows the end-of-text token.

        A text that does not fit the window raises PromptTooLong, unless `stride` is given: then windows of
        n_positions tokens are moved by `stride`, and each token is scored once, with at least n_positions -
        stride tokens before it.
        """
        # Without a tokenizer a text is refused as everywhere.
        tokenizer = self.tokenizer if isinstance(text, str) else self._tokenizer
        found = self._adapters.get(adapter)
        return score_text(self._native, found, self.config, tokenizer, text, stride)

    def embed(
        self,
        texts: Prompt | Iterable[Prompt],
        layer: int = -1,
        pooling: Pooling = "mean",
        *,
        adapter: str | None = None,
    ) -> Floats:
        """One vector per text, float32 [B, C]: the hidden states of `layer` (0 embedding ... L, or from the
        end) pooled over tokens.

        pooling: "mean", "last" token, or "weighted" by position (w_t = t / sum t; SGPT, arXiv:2202.08904).
        Raises PromptTooLong.
        """
        if pooling not in get_args(Pooling):
            raise InvalidRequest("pooling", got=repr(pooling), expected=" | ".join(get_args(Pooling)))
        states = self.config.n_layer + 1
        checks.whole("layer", layer, -states, states - 1, source="n_layer")
        many = [cast(Prompt, texts)] if is_one_prompt(texts) else list(cast("Iterable[Prompt]", texts))
        found = self._adapters.get(adapter)
        ids = [encode_prompt(prompt, SamplingParams(), self.config, self._tokenizer)[0] for prompt in many]
        rows = [pooled(self._native.hidden_states(one, found)[layer], pooling) for one in ids]
        return np.stack(rows) if rows else np.empty((0, self.config.n_embd), dtype=np.float32)

    def _window_ids(self, ids: Sequence[int] | npt.NDArray[Any]) -> Ids:
        array = as_ids(ids, self.config.vocab_size)
        if array.size > self.config.n_positions:
            raise too_long(int(array.size), self.config.n_positions)
        return array


def _params(params: SamplingParams | None, preset: str | None, options: dict[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams.from_options(preset, **options)
    if preset is not None:
        raise InvalidRequest("params and preset contradict each other", hint="give one of them")
    return params.replace(**options) if options else params


def _prompts(prompt: Prompt | Sequence[Prompt]) -> tuple[bool, list[Prompt]]:
    """Whether one prompt was given, and all of them."""
    one = is_one_prompt(prompt)
    return one, [cast(Prompt, prompt)] if one else list(cast("Sequence[Prompt]", prompt))
