"""Diverse beam search (arXiv:1610.02424): groups of beams, each made to differ from those before it.

In each step the groups choose in turn. A token costs diversity_penalty for each beam of the groups before
that has just taken it, before any other rule. Each group keeps its own complete texts; the best of all groups
are returned.

Oracle: transformers 4.49 (group beam search, which 5 dropped).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Ending, last_row, log_softmax
from gpt2.decoding.strategies.frontier import Frontier, best_of_rows
from gpt2.decoding.strategies.hypotheses import Hypotheses, live_of, ranked
from gpt2.decoding.tree import Answer, Ask, Extend, Strategy, Tree, Wait
from gpt2.protocols import FinishReason

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]


class _Group:
    def __init__(self, frontier: Frontier, width: int, params: SamplingParams) -> None:
        self.frontier = frontier
        self.texts = Hypotheses(width, params)
        self.done = False


def diverse_beam_search(
    tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
) -> Strategy:
    ending = Ending(tree, params, ends)
    width = params.num_beams // params.num_beam_groups
    root = tree.open()
    answers = cast("list[Answer]", (yield Wait([Extend(root, prompt, Ask("logits"))])))
    branches = [root] + [root.fork() for _ in range(params.num_beam_groups - 1)]
    groups = [
        _Group(Frontier(tree, prompt, params, ending, rows=True, branch=branch), width, params)
        for branch in branches
    ]
    answers = answers * len(groups)
    for length in range(1, params.max_new_tokens + 1):
        taken: Counter[int] = Counter()
        for group in groups:
            if group.done:
                # transformers fills a group that is done with its padding token, the end-of-text token.
                if ending.ids:
                    taken[min(ending.ids)] += width
                continue
            beams = len(group.frontier.beams)
            taken.update(_step(tree, group, answers[:beams], taken, params))
            answers = answers[beams:]
        going = [group for group in groups if not group.done]
        if not going or length == params.max_new_tokens:
            _close(going, "length")
            break
        waits = [group.frontier.wait(0).extensions for group in going]
        answers = cast("list[Answer]", (yield Wait([one for many in waits for one in many])))
        if any(answer.full for answer in answers):
            _close(going, "context")
            break
    yield from groups[0].frontier.results(ranked([text for g in groups for text in g.texts.texts]))


def _step(
    tree: Tree, group: _Group, answers: Sequence[Answer], taken: Counter[int], params: SamplingParams
) -> list[int]:
    """One step of one group; the tokens that its beams take. `taken`: those of the groups before."""
    frontier = group.frontier
    frontier.take_rows(answers)
    costly = list(taken)
    costs = np.array([params.diversity_penalty * taken[token] for token in costly], dtype=np.float32)
    rows: list[Floats] = []
    for beam, answer in zip(frontier.beams, answers, strict=True):
        logprobs = log_softmax(last_row(answer))
        logprobs[costly] -= costs
        rows.append(tree.rules(logprobs, beam.branch, draw_rules=False) + beam.score)
    width = params.num_beams // params.num_beam_groups
    best = best_of_rows(rows, max(2, 1 + len(frontier.ending.ids)) * width)
    live = live_of(frontier, best, width, group.texts.add)
    length = len(frontier.beams[0].tokens) + 1
    group.done = group.texts.is_done(best[0].score, length)
    if group.done or not live:
        group.done = True
        frontier.drop()
    else:
        frontier.go_on(live)
    return [c.token for c in live]


def _close(groups: Sequence[_Group], finish: FinishReason) -> None:
    """What still goes on is complete where it stands."""
    for group in groups:
        for beam in group.frontier.beams:
            group.texts.add(group.frontier.stopped(beam, finish))
