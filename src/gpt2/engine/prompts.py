"""What callers may give as a prompt, and how it becomes token ids that fit the window.

Nothing is cut silently: a prompt that does not fit is PromptTooLong unless the request names a policy, and
the cut is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.options.values import shown
from gpt2.errors import InvalidRequest, PromptTooLong
from gpt2.protocols import Cut
from gpt2.tokenizer import Tokenizer

Ids: TypeAlias = npt.NDArray[np.int32]
Prompt: TypeAlias = "str | Sequence[int] | npt.NDArray[Any]"

_BYTES = (bytes, bytearray, memoryview)
"""Sequences of numbers that are more likely meant as text."""


def as_ids(values: Sequence[int] | npt.NDArray[Any], vocab_size: int) -> Ids:
    """int32 [T] from any sequence of whole numbers. Raises InvalidRequest with the position of a wrong
    one."""
    if isinstance(values, (str, *_BYTES)):
        raise InvalidRequest(
            "token ids",
            got=type(values).__name__,
            expected="a sequence of whole numbers",
            hint="encode the text first: lm.tokenizer.encode(text)",
        )
    if isinstance(values, Sequence) and not isinstance(values, range):
        _require_whole(values, vocab_size)  # before numpy finds a common type: of True it makes 1
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            "token ids", got="no regular array", expected="a flat sequence of ids"
        ) from error
    if array.ndim != 1 or array.size == 0:
        raise InvalidRequest(
            "token ids", got=f"shape {list(array.shape)}", expected="a flat sequence, at least one"
        )
    if array.dtype.kind not in "iu":
        raise InvalidRequest(
            "token ids", got=f"values of type {array.dtype}", expected="whole numbers below 2^31"
        )
    wrong = (array < 0) | (array >= vocab_size)
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidRequest(
            f"token id at position {at}",
            got=int(array[at]),
            expected=f"0 to {vocab_size - 1}",
            source="vocab_size",
        )
    return np.ascontiguousarray(array, dtype=np.int32)


def _require_whole(values: Sequence[Any], vocab_size: int) -> None:
    """Refuses what is no id, by its position, if the values are no longer sequences themselves."""
    kinds = set(map(type, values))
    if kinds == {int} and min(values) >= -(2**63) and max(values) < 2**63:
        return  # the usual case, checked at the speed of C
    for at, value in enumerate(values):
        if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, *_BYTES)):
            continue
        known = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not known or not 0 <= value < vocab_size:
            raise InvalidRequest(
                f"token id at position {at}",
                got=value if known else f"{shown(value)} ({type(value).__name__})",
                expected=f"a whole number, 0 to {vocab_size - 1}",
                source="vocab_size",
            )


def ids_or_none(values: object, vocab_size: int) -> Ids:
    """as_ids(), and int32 [0] for a sequence without elements; whatever else is InvalidRequest."""
    fits = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, _BYTES)
    if not fits or getattr(values, "ndim", 1) == 0:
        raise InvalidRequest(
            "prompt", got=type(values).__name__, expected="a text, or a sequence of token ids"
        )
    given = cast("Sequence[int]", values)
    return as_ids(given, vocab_size) if len(given) else np.empty(0, dtype=np.int32)


def is_one_prompt(prompt: object) -> bool:
    """False for a sequence of prompts (an empty one, too); True for whatever else, right or wrong."""
    if isinstance(prompt, (str, bytes)):
        return True
    if isinstance(prompt, np.ndarray):
        return prompt.ndim < 2
    if not isinstance(prompt, Iterable):
        return True
    return (
        isinstance(prompt, Sequence) and len(prompt) > 0 and not isinstance(prompt[0], (Sequence, np.ndarray))
    )


def start_id(config: GPT2Config, tokenizer: Tokenizer | None) -> int:
    """The token that an empty prompt begins with: the end-of-text token, which stands between documents."""
    candidates = [tokenizer.eos_id if tokenizer is not None else None, *eos_ids(config), config.bos_token_id]
    for candidate in candidates:
        if candidate is not None and 0 <= candidate < config.vocab_size:
            return candidate
    raise InvalidRequest(
        "an empty prompt needs an end-of-text token, and this model has none",
        hint="give at least one character or token",
    )


def eos_ids(config: GPT2Config) -> tuple[int, ...]:
    """The end-of-text ids of the config that the vocabulary has."""
    eos = config.eos_token_id
    many = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
    return tuple(one for one in many if 0 <= one < config.vocab_size)


def end_ids(config: GPT2Config, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The ids that end a text: the config's, and the tokenizer's."""
    own = tokenizer.eos_id if tokenizer is not None else None
    return frozenset({*eos_ids(config), *(() if own is None else (own,))})


def encode_prompt(
    prompt: Prompt, params: SamplingParams, config: GPT2Config, tokenizer: Tokenizer | None
) -> tuple[Ids, Cut | None]:
    """The ids that the model will see (never more than n_positions), and what was cut to get there."""
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InvalidRequest(
                "the model has no tokenizer, so that a text cannot be its prompt", hint="give token ids"
            )
        allowed = tuple(tokenizer.special_tokens) if params.allow_special else ()
        ids = np.asarray(tokenizer.encode(prompt, allowed_special=allowed), dtype=np.int32)
    else:
        ids = ids_or_none(prompt, config.vocab_size)
    if ids.size == 0:
        return np.array([start_id(config, tokenizer)], dtype=np.int32), None
    if ids.size <= config.n_positions:
        return ids, None
    return _cut(ids, params, config.n_positions)


def too_long(tokens: int, window: int) -> PromptTooLong:
    return PromptTooLong(
        "the prompt does not fit the context window",
        got=f"{tokens} tokens",
        expected=f"at most {window}",
        source="n_positions of the model",
        hint='a shorter prompt, or truncate="left", "right" or "middle" (the side that is cut away)',
    )


def _cut(ids: Ids, params: SamplingParams, window: int) -> tuple[Ids, Cut]:
    """Cut to the window less the room for the new tokens (at most half of it)."""
    if params.truncate is None:
        raise too_long(ids.size, window)
    keep = max(1, window - min(params.max_new_tokens, window // 2))
    removed = ids.size - keep
    start = {"left": 0, "right": keep, "middle": (keep + 1) // 2}[params.truncate]
    cut = Cut(policy=params.truncate, original=int(ids.size), start=start, stop=start + removed)
    return cast(Ids, np.concatenate([ids[:start], ids[start + removed :]])), cut
