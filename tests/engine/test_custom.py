"""A caller's own rules: exact, on the caller's time, and nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2 import errors


@pytest.fixture(scope="module")
def lm(tiny_checkpoint: Path) -> gpt2.LanguageModel:
    return gpt2.load(tiny_checkpoint, threads=1)


def same(ids: Sequence[int], logits: Any) -> Any:
    return logits


HOW: dict[str, Any] = {"seed": 5, "max_new_tokens": 20, "logprobs": 2}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_rule_that_does_nothing_changes_nothing(lm: Any, n: int, temperature: float) -> None:
    how = {**HOW, "n": n, "temperature": temperature, "stop": "q", "overflow": "slide"}
    prompts = ["the sea", "", "x" * 30]
    expected = lm.generate(prompts, **how)
    assert lm.generate(prompts, **how, logits_processors=[same, same]) == expected
    assert lm.generate(prompts, **how, stopping_criteria=[lambda ids: False]) == expected


def test_rules_come_in_their_order_and_see_all_tokens(lm: Any) -> None:
    seen: list[list[int]] = []

    def only_five(ids: Sequence[int], logits: Any) -> Any:
        seen.append(list(ids))
        assert not logits.flags.writeable
        out = np.full_like(logits, -np.inf)
        out[5] = 1.0
        return out

    def next_one(ids: Sequence[int], logits: Any) -> Any:
        return np.roll(logits, 1)

    result = lm.generate(
        [1, 2], seed=1, max_new_tokens=3, logits_processors=[only_five, next_one], logprobs=0
    )
    assert result.tokens == (6, 6, 6)
    assert seen == [[1, 2], [1, 2, 6], [1, 2, 6, 6]]
    # The reported log-probabilities are the model's own.
    scored = lm._native.score(np.array([1, 2, 6, 6, 6], dtype=np.int32))[1:]
    np.testing.assert_allclose(result.logprobs, scored, atol=2e-6)


def test_a_criterion_ends_the_text_after_its_token(lm: Any) -> None:
    plain = lm.generate("the", **HOW)
    prompt = plain.prompt_tokens
    ended = lm.generate("the", **HOW, stopping_criteria=[lambda ids: len(ids) == prompt + 7])
    assert ended.tokens == plain.tokens[:7]
    assert ended.finish_reason == "stop"


def test_an_error_in_a_rule_reaches_its_caller_alone(lm: Any) -> None:
    def broken(ids: Sequence[int], logits: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lm.generate("the", logits_processors=[broken])
    with pytest.raises(errors.InvalidRequest, match="logits processor"):
        lm.generate("the", logits_processors=[lambda ids, logits: logits[:-1]])
    with pytest.raises(errors.InvalidRequest, match="contradict"):
        lm.generate("the", logits_processors=[same], prompt_lookup_num_tokens=2)

    async def both() -> list[Any]:
        bad = lm.agenerate("the", logits_processors=[broken])
        return await asyncio.gather(bad, lm.agenerate("the", **HOW), return_exceptions=True)

    bad, good = asyncio.run(both())
    assert isinstance(bad, ZeroDivisionError)
    assert good == lm.generate("the", **HOW)
    assert lm.stats().blocks_used == 0


def test_a_slow_rule_stalls_nobody_else(lm: Any) -> None:
    """While one request's processor waits, another request runs from its beginning to its end."""
    release = threading.Event()

    def slow(ids: Sequence[int], logits: Any) -> Any:
        assert release.wait(60)
        return logits

    async def main() -> tuple[Any, Any]:
        waits = asyncio.create_task(lm.agenerate("the", **HOW, logits_processors=[slow]))
        await asyncio.sleep(0)
        other = await asyncio.wait_for(lm.agenerate("sea", **HOW), 60)
        assert not waits.done()
        release.set()
        return await waits, other

    assert asyncio.run(main()) == (lm.generate("the", **HOW), lm.generate("sea", **HOW))


def test_a_cancelled_task_leaves_its_rule_and_its_blocks(lm: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(ids: Sequence[int], logits: Any) -> Any:
        entered.set()
        assert release.wait(60)
        return logits

    async def main() -> None:
        task = asyncio.create_task(lm.agenerate("the", **HOW, logits_processors=[slow]))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    release.set()
    deadline = time.monotonic() + 10
    while (lm.stats().blocks_used or any(t.name == "gpt2-async" for t in threading.enumerate())) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert lm.stats().blocks_used == 0
    assert "gpt2-async" not in [thread.name for thread in threading.enumerate()]
