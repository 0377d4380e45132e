"""The rules that look at the history: penalties, biases, and what must or must not come next.

Each takes scores [V] float32 and gives new ones; a banned token has -inf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.sampling.draws import Floats

Bits: TypeAlias = npt.NDArray[np.uint32]


@dataclass(slots=True)
class State:
    """What a rule carries from one token of a sequence to the next."""

    mu: float | None = None
    """mirostat: the surprise that is allowed, in bits; None: not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a text a token is to be chosen, and what of the vocabulary the rules must know."""

    history: Sequence[int] = ()
    """Ids of the prompt and of the tokens since."""
    generated: int = 0
    """How many of them, the last ones, were generated."""
    alternative: int = 0
    eos: Sequence[int] = ()
    """The end-of-text ids (they are among params.stop_token_ids, too, unless they are to be ignored)."""
    breakers: Sequence[Sequence[int]] = ()
    """params.dry_sequence_breakers in ids."""
    mask: Bits | None = None
    """[ceil(V / 32)]: bit t % 32 of word t // 32 says whether token t is allowed."""
    state: State = field(default_factory=State)

    @property
    def length(self) -> int:
        return len(self.history)


def ban(scores: Floats, ids: Sequence[int]) -> Floats:
    out = scores.copy()
    out[np.asarray(ids, dtype=np.int64)] = -np.inf
    return out


def force(scores: Floats, ids: Sequence[int]) -> Floats:
    """Only `ids` may come, all alike."""
    out = np.full_like(scores, -np.inf)
    out[np.asarray(ids, dtype=np.int64)] = 0
    return out


def ban_unmasked(scores: Floats, mask: Bits) -> Floats:
    """Ban the tokens whose bit is not set."""
    ids = np.arange(scores.size)
    allowed = (mask[ids // 32] >> (ids % 32).astype(np.uint32)) & 1
    return np.where(allowed == 1, scores, np.float32(-np.inf))


def penalise_repetition(scores: Floats, history: Sequence[int], penalty: float) -> Floats:
    """Make each token of the history less probable, once: score * penalty if negative, else score /
    penalty."""
    out = scores.copy()
    seen = np.unique(np.asarray(history, dtype=np.int64))
    factor = np.float32(penalty)
    with np.errstate(over="ignore"):
        out[seen] = np.where(out[seen] < 0, out[seen] * factor, out[seen] / factor)
    return out


def penalise_frequency(
    scores: Floats, text: Sequence[int], frequency: float = 0.0, presence: float = 0.0
) -> Floats:
    """score - count * frequency - (count > 0) * presence, where count is how often the token was generated
    (the prompt does not count)."""
    out = scores.copy()
    for id, count in Counter(text).items():
        out[id] -= np.float32(count) * np.float32(frequency) + np.float32(presence)
    return out


def penalise_dry(
    scores: Floats,
    history: Sequence[int],
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: Sequence[Sequence[int]] = (),
) -> Floats:
    """Punish the token that would make a repeated run longer ("don't repeat yourself"): where the text ends
    with a run of n >= allowed_length tokens that it had before, what followed then loses multiplier *
    base^(n - allowed_length). The longest such run counts; it does not reach back over a breaker."""
    ids = list(history)
    limit = _after_breaker(ids, breakers)
    longest: dict[int, int] = {}
    for place in range(1, len(ids)):  # the token there followed the run that ends just before it
        run = 0
        while run < min(place, limit) and ids[place - 1 - run] == ids[len(ids) - 1 - run]:
            run += 1
        if run >= allowed_length:
            longest[ids[place]] = max(longest.get(ids[place], 0), run)
    most = int(88.7228391 / np.log(base)) if base > 1.000001 else 10**9  # base^most ends float32
    out = scores.copy()
    for id, run in longest.items():
        out[id] -= np.float32(multiplier * base ** min(run - allowed_length, most))
    return out


def _after_breaker(ids: list[int], breakers: Sequence[Sequence[int]]) -> int:
    """How many tokens stand after the last breaker."""
    for back in range(len(ids)):
        head = ids[: len(ids) - back]
        if any(head[len(head) - len(b) :] == list(b) for b in breakers if len(b) <= len(head)):
            return back
    return len(ids)


def ban_repeated_ngrams(scores: Floats, history: Sequence[int], n: int) -> Floats:
    """Ban each token that would complete a run of n tokens that the history already holds. n = 0 bans
    nothing."""
    if n == 0 or len(history) < n:
        return scores
    ids = list(history)
    tail = ids[len(ids) - (n - 1) :]
    return ban(scores, [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == tail])


def bias_sequences(
    scores: Floats, history: Sequence[int], biases: Sequence[tuple[Sequence[int], float]]
) -> Floats:
    """Add each bias to the last token of its sequence where the history ends with the others."""
    out = scores.copy()
    for sequence, bias in biases:
        before = list(sequence[:-1])
        if len(history) >= len(before) and list(history)[len(history) - len(before) :] == before:
            out[sequence[-1]] += np.float32(bias)
    return out


def decay_length(scores: Floats, eos: Sequence[int], tokens_since: int, factor: float) -> Floats:
    """The end-of-text tokens gain |score| * (factor^i - 1) at the i-th token after the start of the decay."""
    if tokens_since <= 0:
        return scores
    out = scores.copy()
    most = float(np.finfo(np.float32).max)
    for id in eos:
        if np.isfinite(out[id]):
            now = float(out[id])
            out[id] = np.float32(min(max(now + abs(now) * (factor**tokens_since - 1), -most), most))
    return out


def _window(ids: Sequence[int], last_n: int) -> Sequence[int]:
    return ids if last_n < 0 else ids[max(0, len(ids) - last_n) :]


def _text(place: Place) -> Sequence[int]:
    return place.history[max(0, place.length - place.generated) :]


def _at_last_token(params: SamplingParams, place: Place) -> bool:
    return place.generated + 1 == params.max_new_tokens or place.length + 1 == params.max_length


def _forced_eos(scores: Floats, params: SamplingParams, place: Place) -> Floats:
    """Force it where the text is about to reach max_new_tokens or max_length."""
    return force(scores, params.forced_eos_token_id) if _at_last_token(params, place) else scores


def _forced_decoder_ids(scores: Floats, params: SamplingParams, place: Place) -> Floats:
    for position, id in params.forced_decoder_ids:
        if position == place.length:
            scores = force(scores, [id])
    return scores


def _begin_suppress(scores: Floats, params: SamplingParams, place: Place) -> Floats:
    prompt = max(0, place.length - place.generated)
    # With a forced first token, what begins the text is the one after it (transformers counts so too).
    begin = 1 if prompt == 1 and params.forced_bos_token_id is not None else 0
    return ban(scores, params.begin_suppress_tokens) if place.generated == begin else scores


def _decay(scores: Floats, params: SamplingParams, place: Place) -> Floats:
    start, factor = params.exponential_decay_length_penalty or (0, 1.0)
    return decay_length(scores, place.eos, place.generated - start, factor)


HistoryRule: TypeAlias = Callable[[Floats, SamplingParams, Place], Floats]

HISTORY_RULES: Final[Mapping[str, HistoryRule]] = MappingProxyType(
    {
        "logit_bias": lambda s, p, at: bias_sequences(s, (), [((id,), bias) for id, bias in p.logit_bias]),
        "sequence_bias": lambda s, p, at: bias_sequences(s, at.history, p.sequence_bias),
        "repetition_penalty": lambda s, p, at: penalise_repetition(
            s, _window(at.history, p.repeat_last_n), p.repetition_penalty
        ),
        "frequency_penalty": lambda s, p, at: penalise_frequency(
            s, _window(_text(at), p.repeat_last_n), frequency=p.frequency_penalty
        ),
        "presence_penalty": lambda s, p, at: penalise_frequency(
            s, _window(_text(at), p.repeat_last_n), presence=p.presence_penalty
        ),
        "dry_multiplier": lambda s, p, at: penalise_dry(
            s,
            _window(at.history, p.dry_penalty_last_n),
            p.dry_multiplier,
            p.dry_base,
            p.dry_allowed_length,
            at.breakers,
        ),
        "no_repeat_ngram_size": lambda s, p, at: ban_repeated_ngrams(s, at.history, p.no_repeat_ngram_size),
        "bad_words_ids": lambda s, p, at: bias_sequences(
            s, at.history, [(word, -np.inf) for word in p.bad_words_ids]
        ),
        "min_length": lambda s, p, at: ban(s, p.stop_token_ids) if at.length < p.min_length else s,
        "min_new_tokens": lambda s, p, at: ban(s, p.stop_token_ids) if at.generated < p.min_new_tokens else s,
        "forced_bos_token_id": lambda s, p, at: (
            force(s, [p.forced_bos_token_id or 0]) if at.length == 1 else s
        ),
        "forced_eos_token_id": _forced_eos,
        "exponential_decay_length_penalty": _decay,
        "suppress_tokens": lambda s, p, at: ban(s, p.suppress_tokens),
        "begin_suppress_tokens": _begin_suppress,
        "forced_decoder_ids": _forced_decoder_ids,
    }
)
"""Rule -> what it does; the same names as the rows of options.rules.RULE_ORDER before temperature."""
