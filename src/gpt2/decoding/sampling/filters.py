"""The rules that shape the draw: temperature, and the filters that decide which tokens may be drawn.

They pass on z [V] float32: the weight of a token is exp(z), a banned token has -inf, and a constant added to
all of z changes nothing. Each filter keeps at least the `min_keep` largest, and what ties with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.sampling.draws import XTC_DRAW, Floats, entropy, philox_uniform, weigh
from gpt2.decoding.sampling.history import Place

LOWEST: Final = np.float32(-np.inf)


def from_largest(scores: Floats) -> Floats:
    """z = score - largest. Changes no probability, and keeps a small temperature from overflowing."""
    with np.errstate(over="ignore"):
        z: Floats = scores - scores.max()
    return z


def divide_by_temperature(scores: Floats, temperature: float) -> Floats:
    """z = (score - largest) / temperature."""
    with np.errstate(over="ignore"):
        z: Floats = from_largest(scores) / np.float32(temperature)
    return z


def dynamic_temperature(z: Floats, temperature: float, spread: float, exponent: float) -> float:
    """low + (high - low) * (entropy / ln n)^exponent for the n tokens that are left, low and high being
    temperature - spread (at least 0) and temperature + spread: certain where the model is, varied where it
    is not."""
    left = int(np.isfinite(z).sum())
    if left < 2:
        return temperature
    low, high = max(0.0, temperature - spread), temperature + spread
    part = min(max(entropy(z) / math.log(left), 0.0), 1.0)
    return max(low + (high - low) * float(part**exponent), float(np.finfo(np.float32).tiny))


def keep_above(z: Floats, bound: float, min_keep: int = 1) -> Floats:
    """Ban what is smaller than `bound`."""
    least = float(np.sort(z)[-min(min_keep, z.size)])
    return np.where(z.astype(np.float64) >= min(bound, least), z, LOWEST)


def keep_top_k(z: Floats, k: int, min_keep: int = 1) -> Floats:
    """Ban what is smaller than the k-th largest; ties with it stay. k = 0 bans nothing."""
    if k == 0:
        return z
    k = max(k, min_keep)
    if k >= z.size:
        return z
    kth = np.partition(z, z.size - k)[z.size - k]
    return np.where(z >= kth, z, LOWEST)


def keep_top_p(z: Floats, p: float, min_keep: int = 1) -> Floats:
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
    out = np.full_like(z, LOWEST)
    out[kept] = z[kept]
    return out if min_keep == 1 else np.maximum(out, keep_above(z, math.inf, min_keep))


def keep_min_p(z: Floats, p: float, min_keep: int = 1) -> Floats:
    """Ban what is less than p times as probable as the most probable token. p = 0 bans nothing."""
    return z if p == 0.0 else keep_above(z, float(z.max()) + math.log(p), min_keep)


def keep_top_n_sigma(z: Floats, n: float, min_keep: int = 1) -> Floats:
    """Ban what is more than n standard deviations below the largest; mean and deviation are those of the
    scores that are left."""
    left = z[np.isfinite(z)].astype(np.float64)
    return keep_above(z, float(z.max()) - n * float(left.std()), min_keep)


def keep_top_h(z: Floats, part: float, min_keep: int = 1) -> Floats:
    """Of the 100 most probable keep as many, from the first on, as have together at most `part` of the
    entropy of the 100."""
    order = np.argsort(-z, kind="stable")[:100]
    order = order[np.isfinite(z[order])]
    weights = weigh(z[order])
    probs = weights / weights.sum()
    terms = np.where(probs > 0, -probs * np.log(np.where(probs > 0, probs, 1.0)), 0.0)
    # 1e-9: with part = 1 the sum is the whole, however it was rounded.
    kept = max(1, min_keep, int((np.cumsum(terms) <= part * terms.sum() * (1 + 1e-9)).sum()))
    out = np.full_like(z, LOWEST)
    out[order[:kept]] = z[order[:kept]]
    return out


def keep_typical(z: Floats, p: float, min_keep: int = 1) -> Floats:
    """Keep the tokens whose surprise -ln(probability) is nearest to the entropy, until they have probability
    p together; ties with the last stay. The most probable token may go."""
    weights = weigh(z)
    total = weights.sum()
    left = np.isfinite(z)
    mean = (weights[left] * z[left].astype(np.float64)).sum() / total
    away = np.full(z.shape, np.inf)  # |surprise - entropy| is |z - mean|
    away[left] = np.abs(z[left].astype(np.float64) - mean)
    away = away.astype(np.float32)
    order = np.argsort(away, kind="stable")
    mass = np.cumsum(weights[order])
    last = min(int((mass < p * total).sum()), int(left.sum()) - 1)
    furthest = max(away[order[last]], away[order[min(min_keep, int(left.sum())) - 1]])
    return np.where(away <= furthest, z, LOWEST)


def keep_epsilon(z: Floats, epsilon: float, min_keep: int = 1) -> Floats:
    """Ban what is less probable than epsilon."""
    return keep_above(z, math.log(epsilon * weigh(z).sum()), min_keep)


def keep_eta(z: Floats, epsilon: float, min_keep: int = 1) -> Floats:
    """Ban what is less probable than min(epsilon, sqrt(epsilon) * exp(-entropy)): the flatter the
    distribution, the lower the bar."""
    eta = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(z)))
    return keep_above(z, math.log(eta * weigh(z).sum()), min_keep)


def exclude_top(z: Floats, threshold: float, min_keep: int = 1) -> Floats:
    """XTC: ban all tokens with at least this probability but the least probable of them (of equals, the one
    with the highest id stays), if there are two or more."""
    above = np.flatnonzero(z.astype(np.float64) >= math.log(threshold * weigh(z).sum()))
    left = int(np.isfinite(z).sum())
    if above.size < 2 or left - (above.size - 1) < min_keep:
        return z
    stays = above[np.flatnonzero(z[above] == z[above].min())[-1]]
    out = z.copy()
    out[above] = LOWEST
    out[stays] = z[stays]
    return out


def keep_mirostat_1(z: Floats, mu: float, min_keep: int = 1) -> Floats:
    """Keep the k most probable, k = (e 2^mu / (1 - V^-e))^(1/s) with Zipf's exponent s estimated from the 100
    most probable tokens, and e = s - 1."""
    best = np.sort(z)[::-1][:100].astype(np.float64)
    best = best[np.isfinite(best)]
    if best.size < 2:
        return z
    t = np.log(np.arange(2, best.size + 1) / np.arange(1, best.size))
    s = float((t * (best[:-1] - best[1:])).sum() / (t * t).sum())
    e, size = s - 1.0, float(z.size)
    slope = 1.0 / math.log(size) if abs(e) < 1e-9 else e / (1.0 - size**-e)
    with np.errstate(over="ignore", divide="ignore"):
        k = float(np.float64(slope * 2.0**mu) ** np.divide(1.0, s))
    return keep_top_k(z, z.size if k >= size else max(1, int(k)) if k >= 1 else 1, min_keep)


def keep_mirostat_2(z: Floats, mu: float, min_keep: int = 1) -> Floats:
    """Ban what is more surprising than mu bits: -log2(probability) > mu."""
    return keep_above(z, math.log(weigh(z).sum()) - mu * math.log(2), min_keep)


def allowed_surprise(params: SamplingParams, place: Place) -> float:
    """mirostat's mu, which begins at 2 tau."""
    return 2 * params.mirostat_tau if place.state.mu is None else place.state.mu


def _temperature(z: Floats, params: SamplingParams, place: Place) -> Floats:
    t = params.temperature
    if params.dynatemp_range > 0:
        t = dynamic_temperature(z, t, params.dynatemp_range, params.dynatemp_exponent)
    # Counted from the largest again: where that was taken away (xtc, typical_p) a small temperature would
    # leave no weight to any.
    return divide_by_temperature(z, t)


def _xtc(z: Floats, params: SamplingParams, place: Place) -> Floats:
    coin = philox_uniform(params.seed or 0, place.alternative, place.generated, XTC_DRAW)
    if coin >= params.xtc_probability:
        return z
    return exclude_top(z, params.xtc_threshold, params.min_tokens_to_keep)


def _mirostat(z: Floats, params: SamplingParams, place: Place) -> Floats:
    keep = keep_mirostat_1 if params.mirostat == 1 else keep_mirostat_2
    return keep(z, allowed_surprise(params, place), params.min_tokens_to_keep)


DrawRule: TypeAlias = Callable[[Floats, SamplingParams, Place], Floats]

DRAW_RULES: Final[Mapping[str, DrawRule]] = MappingProxyType(
    {
        "temperature": _temperature,
        "top_n_sigma": lambda z, p, _: keep_top_n_sigma(z, p.top_n_sigma, p.min_tokens_to_keep),
        "top_h": lambda z, p, _: keep_top_h(z, p.top_h, p.min_tokens_to_keep),
        "top_k": lambda z, p, _: keep_top_k(z, p.top_k, p.min_tokens_to_keep),
        "top_p": lambda z, p, _: keep_top_p(z, p.top_p, p.min_tokens_to_keep),
        "min_p": lambda z, p, _: keep_min_p(z, p.min_p, p.min_tokens_to_keep),
        "typical_p": lambda z, p, _: keep_typical(z, p.typical_p, p.min_tokens_to_keep),
        "epsilon_cutoff": lambda z, p, _: keep_epsilon(z, p.epsilon_cutoff, p.min_tokens_to_keep),
        "eta_cutoff": lambda z, p, _: keep_eta(z, p.eta_cutoff, p.min_tokens_to_keep),
        "xtc_probability": _xtc,
        "mirostat": _mirostat,
    }
)
"""Rule -> what it does; the same names as the rows of options.rules.RULE_ORDER from temperature on."""
