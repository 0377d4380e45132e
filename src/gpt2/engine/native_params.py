"""The options of a request as the native sampler takes them: words become ids, "off" becomes a number.

Knows the vocabulary, and nothing of how a token is chosen.
"""

from __future__ import annotations

from gpt2 import _native
from gpt2.decoding import SamplingParams
from gpt2.errors import InvalidRequest
from gpt2.tokenizer import Tokenizer

_SAME = (
    "temperature",
    "dynatemp_range",
    "dynatemp_exponent",
    "top_n_sigma",
    "top_h",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "min_tokens_to_keep",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "no_repeat_ngram_size",
    "logit_bias",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_eos_token_id",
    "forced_decoder_ids",
    "min_length",
    "min_new_tokens",
    "max_new_tokens",
    "renormalize_logits",
    "sampler_order",
)
"""Fields that are the same on both sides."""


def native_params(
    params: SamplingParams, seed: int, ends: frozenset[int], tokenizer: Tokenizer | None = None
) -> _native.SamplerParams:
    """The part of the options that the native sampler takes; `ends` are the end-of-text ids.

    Raises InvalidRequest for options in words where there is no tokenizer.
    """
    native = _native.SamplerParams()
    for name in _SAME:
        setattr(native, name, getattr(params, name))
    native.bad_words_ids = [list(ids) for ids in bad_words_ids(params, ends, tokenizer)]
    if params.dry_multiplier > 0 and params.dry_sequence_breakers and tokenizer is not None:
        native.dry_sequence_breakers = [
            list(ids) for ids in breakers(params.dry_sequence_breakers, tokenizer)
        ]
    native.forced_bos_token_id = -1 if params.forced_bos_token_id is None else params.forced_bos_token_id
    if params.exponential_decay_length_penalty is not None:
        start, factor = params.exponential_decay_length_penalty
        native.exponential_decay_start, native.exponential_decay_factor = start, factor
    native.max_length = -1 if params.max_length is None else params.max_length
    native.stop_token_ids = sorted({*ends, *params.stop_token_ids})
    native.eos_token_ids = sorted(ends or params.stop_token_ids)  # eos_token_id of transformers is the latter
    native.seed = seed
    native.logprobs = -1 if params.logprobs is None else params.logprobs
    return native


def bad_words_ids(
    params: SamplingParams, ends: frozenset[int], tokenizer: Tokenizer | None
) -> list[tuple[int, ...]]:
    """The sequences that cannot come: those given, but an end-of-text token alone (transformers keeps it, so
    that the text can end), and those of the words, with and without a space before."""
    sequences = [ids for ids in params.bad_words_ids if not (len(ids) == 1 and ids[0] in ends)]
    if params.bad_words and tokenizer is None:
        raise InvalidRequest(
            "bad_words", got="a model without a tokenizer", expected="token ids", hint="use bad_words_ids"
        )
    if tokenizer is not None:
        for word in params.bad_words:
            sequences += [tuple(tokenizer.encode(word)), tuple(tokenizer.encode(f" {word.lstrip()}"))]
    return list(dict.fromkeys(sequences))


def breakers(strings: tuple[str, ...], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Sequences of ids that end a run: every token that contains one of the strings, and the ids of a string
    that none contains."""
    found: list[tuple[int, ...]] = []
    for string in strings:
        ids = [(id,) for id in tokenizer.ids_containing(string.encode())]
        found += ids or [tuple(tokenizer.encode(string))]
    return list(dict.fromkeys(found))
