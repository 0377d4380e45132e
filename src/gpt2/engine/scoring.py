"""How probable a text is, and one vector of it, out of the engine's log-probabilities and hidden states.

Knows the engine's calls and the tokenizer, nothing of generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.engine.checks import whole
from gpt2.engine.prompts import Ids, Prompt, ids_or_none, start_id, too_long
from gpt2.errors import InvalidRequest, PromptTooLong
from gpt2.protocols import Pooling, Score
from gpt2.tokenizer import Tokenizer

Floats: TypeAlias = npt.NDArray[np.float32]


def score_text(
    native: _native.Engine,
    adapter: _native.Adapter | None,
    config: GPT2Config,
    tokenizer: Tokenizer | None,
    text: Prompt,
    stride: int | None,
) -> Score:
    """See LanguageModel.score."""
    ids = _with_start(text, config, tokenizer)
    window = config.n_positions
    if stride is not None:
        whole("stride", stride, 1, window, source="n_positions; None scores one window")
    if ids.size - 1 > window and stride is None:
        error = too_long(int(ids.size) - 1, window)
        raise PromptTooLong(
            error.what,
            got=error.got,
            expected=error.expected,
            source=error.source,
            hint=f"stride={max(1, window // 2)}",
        )
    logprobs = _strided(native, adapter, ids, window, stride or window)
    tokens = tuple(int(i) for i in ids[1:])
    total = math.fsum(logprobs)
    count = _byte_count(text, tokens, tokenizer)
    return Score(
        tokens=tokens,
        texts=tuple(piece(i, tokenizer) for i in tokens) if tokenizer is not None else (),
        logprobs=tuple(logprobs),
        total=total,
        perplexity=math.exp(-total / len(tokens)) if tokens else 1.0,
        bits_per_byte=-total / math.log(2) / count if count else 0.0,
    )


def _strided(
    native: _native.Engine, adapter: _native.Adapter | None, ids: Ids, window: int, stride: int
) -> list[float]:
    logprobs: list[float] = []
    begin = 0
    while len(logprobs) < ids.size - 1:
        scored = native.score(ids[begin : begin + window + 1], adapter)
        logprobs += [float(x) for x in scored[len(logprobs) - begin :]]
        begin += stride
    return logprobs


def _with_start(text: Prompt, config: GPT2Config, tokenizer: Tokenizer | None) -> Ids:
    """The start token and the ids of the text."""
    start = np.array([start_id(config, tokenizer)], dtype=np.int32)
    if not isinstance(text, str):
        ids = ids_or_none(text, config.vocab_size)
    elif tokenizer is None:
        raise InvalidRequest("the model has no tokenizer, so that a text cannot be scored", hint="token ids")
    else:
        ids = np.asarray(tokenizer.encode(text), dtype=np.int32)
    return np.concatenate([start, ids])


def _byte_count(text: Prompt, tokens: Sequence[int], tokenizer: Tokenizer | None) -> int:
    if isinstance(text, str):
        return len(text.encode("utf-8", "surrogatepass"))
    return 0 if tokenizer is None else len(tokenizer.decode_bytes(tokens))


def piece(token: int, tokenizer: Tokenizer | None) -> str:
    """The text of one token; what has none shows as U+FFFD."""
    if tokenizer is None:
        return ""
    if token >= tokenizer.vocab_size:
        return "\ufffd"
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def pooled(states: Floats, pooling: Pooling) -> Floats:
    """One vector [C] of hidden states [T, C]."""
    if pooling == "last":
        return cast(Floats, states[-1])
    weights = np.ones(len(states)) if pooling == "mean" else np.arange(1, len(states) + 1)
    return cast(Floats, ((weights / weights.sum()) @ states.astype(np.float64)).astype(np.float32))
