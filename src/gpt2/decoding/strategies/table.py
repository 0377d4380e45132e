"""Which options are answered by which strategy: the one table that the engine asks.

A strategy (tree.py) is for decoding that is more than one token drawn after the other from one branch. What
the engine's own loop does (greedy, sampling, `n` of them) has none.
"""

from __future__ import annotations

from collections.abc import Callable

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.beams import beam_search
from gpt2.decoding.strategies.best_of import best_of
from gpt2.decoding.strategies.constrained import constrained_beam_search
from gpt2.decoding.strategies.contrastive import contrastive
from gpt2.decoding.strategies.diverse import diverse_beam_search
from gpt2.decoding.strategies.dola import dola
from gpt2.decoding.strategies.guidance import guidance
from gpt2.decoding.strategies.speculation import prompt_lookup
from gpt2.decoding.tree import MakeStrategy

TABLE: tuple[tuple[Callable[[SamplingParams], bool], MakeStrategy], ...] = (
    (lambda p: bool(p.force_words_ids), constrained_beam_search),
    (lambda p: p.num_beam_groups > 1, diverse_beam_search),
    (lambda p: p.num_beams > 1, beam_search),
    (lambda p: bool(p.penalty_alpha), contrastive),
    (lambda p: p.dola_layers is not None, dola),
    (lambda p: p.guidance_scale not in (None, 1.0), guidance),
    (lambda p: p.best_of is not None, best_of),
    (lambda p: p.prompt_lookup_num_tokens is not None, prompt_lookup),
)
"""(whether it is asked for, what makes it); the first that is asked for is taken."""


def strategy_for(params: SamplingParams) -> MakeStrategy | None:
    """What makes the strategy that `params` ask for; None for the engine's own loop."""
    return next((make for asked, make in TABLE if asked(params)), None)
