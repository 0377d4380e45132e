"""Beam search and beam sampling: several texts are followed at once, and those with the best score are
returned.

In each step the 2 * num_beams best one-token continuations of all beams are taken (more where more than one
token ends a text). Among the first num_beams of them those that end a text are complete; the best num_beams
of the others go on. A text's score is the sum of its tokens' scores, which are log-probabilities changed by
the rules, divided by length ** length_penalty. Beam sampling draws the continuations instead, without
replacement, from the softmax of the texts' scores (gumbel.py).

Oracle: transformers 5. What all beams have in common is emitted as soon as it is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending
from gpt2.decoding.strategies.frontier import Finished, Frontier
from gpt2.decoding.tree import Answer, Strategy, Tree
from gpt2.protocols import FinishReason


def beam_search(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    """params.do_sample: beam sampling."""
    ending = Ending(tree, params, ends)
    branch = tree.open(_drawn_params(params, ending)) if params.do_sample else None
    frontier = Frontier(tree, prompt, params, ending, branch=branch)
    width = params.num_beams
    count = max(2, 1 + len(ending.ids)) * width
    done: list[Finished] = []  # best first
    while True:
        answers = cast("list[Answer]", (yield frontier.wait(count)))
        if any(answer.full for answer in answers):
            done = _kept(done, [frontier.stopped(beam, "context") for beam in frontier.beams], width)
            break
        pick = frontier.drawn if params.do_sample else frontier.best
        best = pick(answers, count)
        hits: list[FinishReason | None] = [ending.reason(frontier.text(c)) for c in best]
        ended = [
            frontier.finished(c, hit)
            for c, hit in zip(best[:width], hits[:width], strict=True)
            if hit is not None
        ]
        done = _kept(done, ended, width)
        live = [c for c, hit in zip(best, hits, strict=True) if hit is None]
        live = sorted(live, key=lambda c: -c.score)[:width]
        length = len(frontier.beams[0].tokens) + 1
        if not live or (len(done) == width and _is_enough(done[-1].score, live[0].score, length, params)):
            break
        frontier.go_on(live)
        yield from frontier.certain(done)
    yield from frontier.results(done)


def _drawn_params(params: SamplingParams, ending: Ending) -> SamplingParams:
    """The filters leave each beam a token that does not end it, however many do: else texts could not go on.
    So does transformers."""
    least = 1 + max(1, len(ending.ids))
    return params.replace(min_tokens_to_keep=max(least, params.min_tokens_to_keep))


def _kept(done: list[Finished], new: list[Finished], width: int) -> list[Finished]:
    return sorted(done + new, key=lambda one: -one.score)[:width]


def _is_enough(worst: float, best_live: np.float32, length: int, params: SamplingParams) -> bool:
    """Whether no text that goes on is thought to become better than the worst of the complete ones.

    False is a guess of transformers: as if the text kept its present length. "never" is what can be proven,
    scores being at most 0: with a positive length_penalty the longest text divides its sum by the most.
    """
    if params.early_stopping is True:
        return True
    far = params.early_stopping == "never" and params.length_penalty > 0
    reach = params.max_new_tokens if far else length
    return bool(float(best_live) / reach**params.length_penalty <= worst)
