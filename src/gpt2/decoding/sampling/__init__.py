"""Choose the next token from logits: every rule as one readable function on numpy arrays.

No model, no tokenizer, no global random state. The native sampler (native/sampling/) repeats this for speed;
tests/decoding/test_parity.py holds the two together, token for token.

V = vocabulary size. Scores are [V] float32, never changed in place; a banned token has -inf. The rules come
in the order of the request (RULE_ORDER unless it has its own): those of history.py change scores,
those of filters.py shape the draw and see scores counted from the largest. Softmax is in float64 here; the
native weights differ from it by at most 2^-22 of their value, so that a token can differ only where the draw
falls that close to the border between two.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gpt2.decoding.options.rules import RULE_ORDER
from gpt2.decoding.params import SamplingParams
from gpt2.decoding.sampling.draws import Doubles, Floats, draw, entropy, philox_uniform, weigh
from gpt2.decoding.sampling.filters import (
    DRAW_RULES,
    allowed_surprise,
    divide_by_temperature,
    dynamic_temperature,
    exclude_top,
    from_largest,
    keep_above,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_mirostat_1,
    keep_mirostat_2,
    keep_top_h,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
)
from gpt2.decoding.sampling.history import (
    HISTORY_RULES,
    Place,
    State,
    ban,
    ban_repeated_ngrams,
    ban_unmasked,
    bias_sequences,
    decay_length,
    force,
    penalise_dry,
    penalise_frequency,
    penalise_repetition,
)
from gpt2.errors import EngineError, InvalidRequest

__all__ = [
    "DRAW_RULES",
    "HISTORY_RULES",
    "Doubles",
    "Floats",
    "Place",
    "State",
    "allowed_surprise",
    "apply_draw_rules",
    "apply_history_rules",
    "apply_rules",
    "ban",
    "ban_repeated_ngrams",
    "ban_unmasked",
    "bias_sequences",
    "decay_length",
    "divide_by_temperature",
    "draw",
    "dynamic_temperature",
    "entropy",
    "exclude_top",
    "force",
    "from_largest",
    "keep_above",
    "keep_epsilon",
    "keep_eta",
    "keep_min_p",
    "keep_mirostat_1",
    "keep_mirostat_2",
    "keep_top_h",
    "keep_top_k",
    "keep_top_n_sigma",
    "keep_top_p",
    "keep_typical",
    "log_softmax",
    "next_token",
    "penalise_dry",
    "penalise_frequency",
    "penalise_repetition",
    "philox_uniform",
    "probabilities",
    "weigh",
]

NO_RULES = SamplingParams()

_WRITE_TO_HISTORY = {
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "no_repeat_ngram_size",
}
"""Rules that change the scores of tokens of the history, so that its ids must be those of the vocabulary."""


def next_token(logits: Floats, params: SamplingParams = NO_RULES, **place: Any) -> int:
    """The id of the next token.

    logits [V]; place: the fields of Place, above all history (ids of the prompt and of the tokens since),
    generated (how many of them, the last ones, were generated) and alternative (which of the `n` this is).
    params.seed None counts as 0. The result depends on the arguments alone; place's state becomes that of the
    text with the chosen token.

    Raises EngineError for logits with NaN or +inf, or all -inf; InvalidRequest where the rules leave no
    token.
    """
    at = Place(**place)
    _require_usable(logits)
    scores = apply_rules(logits, params, at)
    if params.temperature == 0.0:
        return int(np.argmax(scores))  # the first of equals
    token = draw(scores, philox_uniform(params.seed or 0, at.alternative, at.generated))
    if params.mirostat:
        weights = weigh(scores)
        surprise = (math.log(weights.sum()) - float(scores[token])) / math.log(2)
        at.state.mu = allowed_surprise(params, at) - params.mirostat_eta * (surprise - params.mirostat_tau)
    return token


def probabilities(logits: Floats, params: SamplingParams = NO_RULES, **place: Any) -> Doubles:
    """The distribution [V] from which next_token() draws; for temperature 0 all of it is on one token."""
    _require_usable(logits)
    scores = apply_rules(logits, params, Place(**place))
    if params.temperature == 0.0:
        weights = (np.arange(scores.size) == np.argmax(scores)).astype(np.float64)
    else:
        weights = weigh(scores)
    out: Doubles = weights / weights.sum()
    return out


def log_softmax(logits: Floats) -> Doubles:
    """The model's own log-probabilities [V]: temperature 1, no rule applied."""
    shifted = logits.astype(np.float64) - float(logits.max())
    out: Doubles = shifted - math.log(np.exp(shifted).sum())
    return out


def apply_rules(
    logits: Floats, params: SamplingParams, place: Place, *, only: Collection[str] = RULE_ORDER
) -> Floats:
    """Scores [V] after the mask and those of the rules that are switched on, in the order of the request;
    with temperature 0 those that shape the draw do nothing."""
    active = [name for name in params.rules if name in only]
    if params.temperature == 0.0:
        active = [name for name in active if name in HISTORY_RULES]
    _require_ids("stop_token_ids", params.stop_token_ids, logits.size)
    if _WRITE_TO_HISTORY.intersection(active):
        _require_ids("history", place.history, logits.size)
    scores = logits if place.mask is None else ban_unmasked(logits, place.mask)
    drawing = False
    for name in active:
        if name in HISTORY_RULES:
            with np.errstate(over="ignore", invalid="ignore"):
                scores = HISTORY_RULES[name](scores, params, place)
            drawing = False
        else:
            if not drawing:
                _require_choice(scores, params, place)
                scores, drawing = from_largest(scores), True
            scores = DRAW_RULES[name](scores, params, place)
    if drawing:
        return scores
    _require_choice(scores, params, place)
    return scores if params.temperature == 0.0 or "temperature" not in only else from_largest(scores)


def apply_history_rules(
    logits: Floats, params: SamplingParams, history: Sequence[int] = (), generated: int = 0, **place: Any
) -> Floats:
    """apply_rules() with the rules of history.py alone."""
    at = Place(history=history, generated=generated, **place)
    return apply_rules(logits, params, at, only=HISTORY_RULES)


def apply_draw_rules(scores: Floats, params: SamplingParams, **place: Any) -> Floats:
    """apply_rules() with the rules of filters.py alone."""
    return apply_rules(scores, params, Place(**place), only=DRAW_RULES)


def _require_choice(scores: Floats, params: SamplingParams, place: Place) -> None:
    names = [name for name in RULE_ORDER if name in params.rules and name in HISTORY_RULES]
    what = ", ".join([*(["mask"] if place.mask is not None else []), *names])
    if np.isposinf(scores).any() or np.isnan(scores).any():
        raise InvalidRequest(what, got="a logit that overflows", expected="a weaker penalty or bias")
    if np.isneginf(scores).all():
        raise InvalidRequest(
            what,
            got="every token banned",
            expected="rules that leave at least one token",
            hint="rules that ban less, or fewer of them",
        )


def _require_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    for id in ids:
        if not 0 <= id < vocab_size:
            raise InvalidRequest(name, got=id, expected=f"an id in [0, {vocab_size})")


def _require_usable(logits: Floats) -> None:
    if np.isnan(logits).any() or np.isposinf(logits).any():
        got, expected = "NaN or +inf among them", "finite numbers or -inf"
    elif np.isneginf(logits).all():
        got, expected = "-inf for every token", "at least one finite number"
    else:
        return
    raise EngineError("logits", got=got, expected=expected, likely="the weights are damaged")
