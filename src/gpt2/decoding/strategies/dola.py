"""DoLa, decoding by contrasting layers (arXiv:2309.03883): what the last layer knows and an early one does
not.

The head reads the residual stream after some early blocks too. Of these, the one whose distribution differs
most from the last one's is taken, and tokens are chosen from the difference of the log-probabilities; tokens
less than a tenth as probable as the most probable one come last.

Oracle: transformers 4.49, dola_layers. Letters: V vocabulary size, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Stream, last_row, log_softmax, one_by_one
from gpt2.decoding.tree import Answer, Ask, Strategy, Tree
from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

_RELATIVE_TOP = math.log(0.1)
_LAST = 1e4  # as a difference of log-probabilities: no draw comes there


def layers_of(
    which: Literal["low", "high"] | tuple[int, ...], n_layer: int, tied: bool = True
) -> tuple[int, ...]:
    """The layers that are meant, each after that many blocks: every second one of the lower or the upper
    half. With a tied head layer 0 would only repeat the token, so that low begins at 2.

    Raises InvalidRequest where the model has none of them.
    """
    if which == "low":
        start = 0 if not tied else {0: 0, 1: 0, 2: 1}.get(n_layer, 2)
        end = n_layer // 2 if n_layer <= 40 else 20
        layers = (start,) if start == n_layer // 2 else tuple(range(start, end, 2))
    elif which == "high":
        layers = tuple(range(n_layer // 2 if n_layer <= 40 else n_layer - 20, n_layer, 2))
    else:
        layers = tuple(layer for layer in which if layer < n_layer)
    if not layers or (not isinstance(which, str) and len(layers) < len(which)):
        raise InvalidRequest(
            "dola_layers",
            got=repr(which),
            expected=f"layers from 0 to {n_layer - 1}",
            source="n_layer of the model",
            hint='dola_layers="high"' if which == "low" else None,
        )
    return layers


def dola(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    """params.dola_layers are numbers by now (layers_of)."""
    layers = cast("tuple[int, ...]", params.dola_layers)

    def scores(answers: list[Answer]) -> Floats:
        early = cast("Floats", answers[0].layers)[:, -1]  # [len(layers), V]
        return contrast(last_row(answers[0]), early)

    return one_by_one(tree, params, ends, [prompt], Stream(Ask("logits", layers=layers), scores))


def contrast(last: Floats, early: Floats) -> Floats:
    """Scores [V] from logits [V] and those of the early layers [n, V]."""
    mature = cast("Floats", log_softmax(last))
    bases = [cast("Floats", log_softmax(one)) for one in early]
    weights = np.exp(mature)
    base = bases[0] if len(bases) == 1 else max(bases, key=lambda one: _divergence(mature, weights, one))
    kept = mature >= mature.max() + _RELATIVE_TOP
    # Not -inf: where a rule bans all that are kept, the most probable of the others is chosen.
    return cast("Floats", np.where(kept, mature - base, mature - np.float32(_LAST)))


def _divergence(one: Floats, weights: Floats, other: Floats) -> float:
    """Jensen-Shannon between log-probabilities, in transformers' form: the mean over V of the divergences of
    the average distribution. `weights`: exp(one)."""
    average = np.float32(0.5) * (weights + np.exp(other))
    log_average = np.log(np.maximum(average, np.float32(1e-38)))
    return float((average * (log_average + log_average - one - other)).mean(dtype=np.float64))
