"""Choose the next token from logits: every rule as one readable function on numpy arrays.

No model, no tokenizer, no global random state. The native sampler (native/sampling/) repeats this for speed;
tests/decoding/test_parity.py holds the two together, token for token.

V = vocabulary size. Scores are [V] float32, never changed in place; a banned token has -inf. The rules come
in the order of transformers' generate(): repetition penalty, repeated n-grams, minimal length, temperature,
top_k, top_p, min_p, draw. Softmax is in float64 here; the native weights differ from it by at most 2^-22 of
their value, so that a token can differ only where the draw falls that close to the border between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2.decoding.params import SamplingParams
from gpt2.errors import EngineError, InvalidRequest

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

NO_RULES = SamplingParams()
_LEAST_WEIGHT_AT = np.float32(-87.0)  # below, the weight is 0: exp(-87) is about the smallest normal float32


def next_token(
    logits: Floats,
    params: SamplingParams = NO_RULES,
    *,
    history: Sequence[int] = (),
    generated: int = 0,
    alternative: int = 0,
) -> int:
    """The id of the next token.

    logits [V]; history: ids of the prompt and of the tokens since, of which the last `generated` were
    generated; alternative: which of the `n` this is. params.seed None counts as 0. The result depends on the
    arguments alone.

    Raises EngineError for logits with NaN or +inf, or all -inf; InvalidRequest where the rules leave no
    token.
    """
    _require_usable(logits)
    scores = apply_history_rules(logits, params, history, generated)
    if params.temperature == 0.0:
        return int(np.argmax(scores))  # the first of equals
    scores = apply_draw_rules(scores, params)
    return draw(scores, philox_uniform(params.seed or 0, alternative, generated))


def probabilities(
    logits: Floats, params: SamplingParams = NO_RULES, *, history: Sequence[int] = (), generated: int = 0
) -> Doubles:
    """The distribution [V] from which next_token() draws; for temperature 0 all of it is on one token."""
    _require_usable(logits)
    scores = apply_history_rules(logits, params, history, generated)
    if params.temperature == 0.0:
        weights = (np.arange(scores.size) == np.argmax(scores)).astype(np.float64)
    else:
        weights = weigh(apply_draw_rules(scores, params))
    out: Doubles = weights / weights.sum()
    return out


def log_softmax(logits: Floats) -> Doubles:
    """The model's own log-probabilities [V]: temperature 1, no rule applied."""
    shifted = logits.astype(np.float64) - float(logits.max())
    out: Doubles = shifted - math.log(np.exp(shifted).sum())
    return out


# Rules that look at the history.


def apply_history_rules(
    logits: Floats, params: SamplingParams, history: Sequence[int], generated: int
) -> Floats:
    _require_ids("history", history, logits.size)
    _require_ids("stop_token_ids", params.stop_token_ids, logits.size)
    scores = penalise_repetition(logits, history, params.repetition_penalty)
    scores = ban_repeated_ngrams(scores, history, params.no_repeat_ngram_size)
    if generated < params.min_new_tokens:
        scores = ban(scores, params.stop_token_ids)
    if np.isposinf(scores).any():
        raise InvalidRequest(
            "repetition_penalty", got="a logit that overflows", expected="a penalty nearer to 1"
        )
    if np.isneginf(scores).all():
        raise InvalidRequest(
            "no_repeat_ngram_size, min_new_tokens",
            got="every token banned",
            expected="rules that leave at least one token",
            hint="a larger no_repeat_ngram_size, or fewer stop_token_ids",
        )
    return scores


def penalise_repetition(scores: Floats, history: Sequence[int], penalty: float) -> Floats:
    """Make each token of the history less probable, once: score * penalty if negative, else score /
    penalty."""
    out = scores.copy()
    seen = np.unique(np.asarray(history, dtype=np.int64))
    factor = np.float32(penalty)
    with np.errstate(over="ignore"):
        out[seen] = np.where(out[seen] < 0, out[seen] * factor, out[seen] / factor)
    return out


def ban_repeated_ngrams(scores: Floats, history: Sequence[int], n: int) -> Floats:
    """Ban each token that would complete a run of n tokens that the history already holds. n = 0 bans
    nothing."""
    if n == 0 or len(history) < n:
        return scores
    ids = list(history)
    tail = ids[len(ids) - (n - 1) :]
    return ban(scores, [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == tail])


def ban(scores: Floats, ids: Sequence[int]) -> Floats:
    out = scores.copy()
    out[np.asarray(ids, dtype=np.int64)] = -np.inf
    return out


# Rules that shape the draw. They pass on exponents z <= 0: the weight of a token is exp(z).


def apply_draw_rules(scores: Floats, params: SamplingParams) -> Floats:
    z = divide_by_temperature(scores, params.temperature)
    z = keep_top_k(z, params.top_k)
    z = keep_top_p(z, params.top_p)
    return keep_min_p(z, params.min_p)


def divide_by_temperature(scores: Floats, temperature: float) -> Floats:
    """z = (score - largest) / temperature. Taking the largest away first changes no probability, and keeps a
    small temperature from overflowing."""
    with np.errstate(over="ignore"):
        z: Floats = (scores - scores.max()) / np.float32(temperature)
    return z


def keep_top_k(z: Floats, k: int) -> Floats:
    """Ban what is smaller than the k-th largest; ties with it stay. k = 0 bans nothing."""
    if k == 0 or k >= z.size:
        return z
    kth = np.partition(z, z.size - k)[z.size - k]
    return np.where(z >= kth, z, np.float32(-np.inf))


def keep_top_p(z: Floats, p: float) -> Floats:
    """Ban all but the most probable tokens. The token that crosses p stays, so at least one always does; of
    equal tokens those with the lowest ids count as the more probable.

    Example: probabilities 0.5, 0.3, 0.2 and p = 0.6 keep the first two (0.5 alone is not yet 0.6).
    """
    if p == 1.0:
        return z
    order = np.argsort(-z, kind="stable")  # [V] ids, best first
    weights = weigh(z[order])
    above = np.cumsum(weights) - weights  # the weight of the tokens before each one
    kept = order[above < p * weights.sum()]
    out = np.full_like(z, -np.inf)
    out[kept] = z[kept]
    return out


def keep_min_p(z: Floats, p: float) -> Floats:
    """Ban what is less than p times as probable as the most probable token. p = 0 bans nothing."""
    if p == 0.0:
        return z
    return np.where(z.astype(np.float64) >= math.log(p), z, np.float32(-np.inf))


def weigh(z: Floats) -> Doubles:
    """Weights exp(z) [V]. Below z = -87 they count as 0, as in the native sampler."""
    return np.where(z >= _LEAST_WEIGHT_AT, np.exp(z.astype(np.float64)), 0.0)


def draw(z: Floats, uniform: float) -> int:
    """The first token, in the order of the ids, whose cumulative weight exceeds `uniform` of the total."""
    cumulative = np.cumsum(weigh(z))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


# The random numbers.


def philox_uniform(seed: int, alternative: int, position: int) -> float:
    """A uniform number in [0, 1) that depends on these three alone: Philox4x32-10 (Salmon et al. 2011), key =
    seed, counter = (position, alternative), the upper 53 of its lower 64 bits. Not numpy's Philox, which is
    4x64."""
    mask = 0xFFFFFFFF
    c = [position & mask, position >> 32, alternative, 0]
    key = [seed & mask, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((c[1] << 32 | c[0]) >> 11) * 2.0**-53


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
