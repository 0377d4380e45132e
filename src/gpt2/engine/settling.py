"""Options whose meaning depends on the model: texts become ids, names of layers numbers, and ids are checked
against the vocabulary.

What SamplingParams could not know, since it stands below every model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.dola import layers_of
from gpt2.engine.prompts import encode_prompt
from gpt2.errors import InvalidRequest
from gpt2.tokenizer import Tokenizer


def settle(
    params: SamplingParams, seed: int, config: GPT2Config, tokenizer: Tokenizer | None
) -> SamplingParams:
    """The params as a strategy takes them. Raises InvalidRequest, PromptTooLong (the negative prompt)."""
    words = (id for word in params.force_words_ids for form in word for id in form)
    for name, ids in (
        ("stop_token_ids", params.stop_token_ids),
        ("force_words_ids", words),
        ("negative_prompt_ids", params.negative_prompt_ids or ()),
    ):
        _require_known(name, ids, config.vocab_size)
    changes: dict[str, Any] = {"seed": seed}
    negative = params.negative_prompt if params.negative_prompt is not None else params.negative_prompt_ids
    if negative is not None:
        encoded, _ = encode_prompt(negative, params.replace(truncate=None), config, tokenizer)
        changes |= {"negative_prompt": None, "negative_prompt_ids": tuple(encoded.tolist())}
    if params.dola_layers is not None:
        tied = config.tie_word_embeddings
        changes["dola_layers"] = layers_of(params.dola_layers, config.n_layer, tied)
    return params.replace(**changes)


def _require_known(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for id in ids:
        if id >= vocab_size:
            raise InvalidRequest(name, got=id, expected=f"0 to {vocab_size - 1}", source="vocab_size")
