"""A caller's own rules: functions that change the logits before each draw, and functions that end a text.

protocols.py says what they are. They run in Python, on the request's own time: in asyncio on a worker's
thread, so that a slow one stalls nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt2.decoding.strategies.drawn import Drawn, begin
from gpt2.decoding.strategies.masked import scored
from gpt2.decoding.tree import Ask, Choice, Extend, Wait
from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Floats, MakeStrategy, Strategy, Tree
    from gpt2.protocols import LogitsProcessor, StoppingCriteria


def custom(processors: Sequence[LogitsProcessor], criteria: Sequence[StoppingCriteria]) -> MakeStrategy:
    """Greedy decoding or sampling from logits that went through the processors, in their order, and then
    through the rules of the request; it ends also where one of the criteria says so."""

    def strategy(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
        kind = Ask("logits" if processors else "choices")

        def take(text: Drawn, logits: Floats) -> Strategy:
            changed = processed(logits, text.tokens, processors)
            choice = tree.choose(changed, text.branch)
            if params.logprobs is not None and changed is not logits:
                choice = scored(logits, choice.token, params.logprobs)  # the model's own, as everywhere
            yield from took(text, choice)

        def took(text: Drawn, choice: Choice) -> Strategy:
            yield text.take([choice])
            if not text.ended and any(ends_here(text.tokens) for ends_here in criteria):
                yield text.take((), "stop")

        texts = yield from begin(tree, prompt, params, ends, take)
        while live := [text for text in texts if not text.ended]:
            answers = yield Wait([Extend(text.branch, text.pending, kind) for text in live])
            for text, got in zip(live, answers or (), strict=True):
                if got.full:
                    yield text.full()
                elif got.logits is None:
                    yield from took(text, got.choices[0])
                else:
                    yield from take(text, got.logits[-1])

    return strategy


def processed(logits: Floats, ids: Sequence[int], processors: Sequence[LogitsProcessor]) -> Floats:
    """logits [V] after the processors. Raises InvalidRequest for a result of another shape or kind."""
    for processor in processors:
        logits.flags.writeable = False
        result = np.asarray(processor(ids, logits))
        if result.shape != logits.shape or result.dtype.kind != "f":
            raise InvalidRequest(
                "the result of a logits processor",
                got=f"{result.dtype} {list(result.shape)}",
                expected=f"float32 {list(logits.shape)}, as it was given",
                where=getattr(processor, "__name__", type(processor).__name__),
            )
        logits = np.ascontiguousarray(result, dtype=np.float32)
    return logits
