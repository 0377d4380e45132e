"""What is measured, in terms of one call that every engine has: run(prompts, new_tokens) -> Times.

Prompts are token ids drawn from the seed, fresh for every operation, so that nobody's prefix cache helps;
all engines get the same ones. Generation is greedy and goes on for exactly `new_tokens` tokens. Letters: B
prompts, T tokens of each. Runs inside the workers, so it needs the standard library alone.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Protocol

Prompts = list[list[int]]

VOCABULARY = 50257


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds on one clock: the call began, every prompt had its first new token, and its last."""

    begin: float
    first: float
    last: float
    chosen: list[int]
    """The last token of each prompt: engines of one width should mostly agree."""


class Runs(Protocol):
    def run(self, prompts: Prompts, new_tokens: int) -> Times: ...


@dataclass(frozen=True, slots=True)
class Operation:
    """B prompts of `context` tokens, each continued by `new` tokens; new == 1 measures the prefill."""

    context: int
    new: int
    batch: int = 1

    @property
    def is_prefill(self) -> bool:
        return self.new == 1

    @property
    def tokens(self) -> int:
        """The tokens whose rate is quoted: prompt tokens, or the new ones after the first."""
        return self.batch * (self.context if self.is_prefill else self.new - 1)

    @property
    def mean_context(self) -> float:
        """Positions in the cache that an average decoded token reads."""
        return self.context + self.new / 2

    def message(self, seed: int, **more: Any) -> dict[str, Any]:
        return {"op": "run", "seed": seed, **asdict(self), **more}


def plan(share: float = 1.0) -> dict[str, Operation]:
    """The operations of a round by the names of the table; `share` shortens the decodes, not the prompts."""

    def new(tokens: int) -> int:
        return 1 + max(4, round(tokens * share))

    return {
        "A": Operation(context=32, new=new(256)),
        "A900": Operation(context=868, new=new(64)),
        "P": Operation(context=512, new=1),
        "B8": Operation(context=32, new=new(128), batch=8),
        "B32": Operation(context=32, new=new(64), batch=32),
    }


WARM_UP = (Operation(context=8, new=4), Operation(context=512, new=1), Operation(context=32, new=4, batch=8))


def prompts(operation: Operation, seed: int) -> Prompts:
    draw = random.Random(f"{seed} {operation.context} {operation.batch}")
    return [
        [draw.randrange(VOCABULARY - 1) for _ in range(operation.context)] for _ in range(operation.batch)
    ]


def measure(engine: Runs, operation: Operation, seed: int) -> dict[str, Any]:
    times = engine.run(prompts(operation, seed), operation.new)
    seconds = times.first - times.begin if operation.is_prefill else times.last - times.first
    return {"tokens_per_second": operation.tokens / seconds, "chosen": times.chosen}
