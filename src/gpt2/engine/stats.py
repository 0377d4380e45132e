"""What the engine reports of itself: how full it is, and what it has done since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A moment's picture. Counters begin at load()."""

    waiting: int
    """Alternatives in the queue, those included that wait for the first of their prompt to encode it."""
    running: int
    """Alternatives that hold memory and are advanced together."""
    blocks: int
    """Blocks of the cache, each of 64 positions: as many as cache_bytes allows."""
    blocks_used: int
    """Of running alternatives."""
    blocks_cached: int
    """Of prefixes that nobody uses now; they make room when it is needed."""
    blocks_free: int
    block_bytes: int
    cache_bytes: int
    """Memory that was allocated for blocks so far; it is kept."""
    requests: int
    """Prompts that were submitted."""
    sequences_ended: int
    """Alternatives that came to their end, those with an error included."""
    errors: int
    cancelled: int
    """Alternatives that were abandoned."""
    steps: int
    tokens_computed: int
    """Tokens that went through the model for requests: prompts without what was shared, generated ones, and
    those computed again after a preemption."""
    tokens_chosen: int
    prompt_tokens: int
    """Tokens of admitted sequences; one that was preempted counts again."""
    prefix_hit_tokens: int
    """Of these, found in the prefix cache."""
    preemptions: int
    """How often a sequence lost its memory to an older one, to be computed again later."""
