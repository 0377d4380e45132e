"""Which options are answered by which strategy: the one table that the engine asks.

A strategy (tree.py) is for decoding that is more than one token drawn after the other from one branch. What
the engine's own loop does (greedy, sampling, `n` of them) has none.
"""

from __future__ import annotations

from collections.abc import Callable

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.speculation import prompt_lookup
from gpt2.decoding.tree import MakeStrategy

TABLE: tuple[tuple[Callable[[SamplingParams], bool], MakeStrategy], ...] = (
    (lambda p: p.prompt_lookup_num_tokens is not None, prompt_lookup),
)
"""(whether it is asked for, what makes it); the first that is asked for is taken."""


def strategy_for(params: SamplingParams) -> MakeStrategy | None:
    """What makes the strategy that `params` ask for; None for the engine's own loop."""
    return next((make for asked, make in TABLE if asked(params)), None)
