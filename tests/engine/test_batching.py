"""Many at once: threads and coroutines share the engine; who leaves frees what he held; who lags is waited
for; who is too much is told so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2 import errors

LONG: dict[str, Any] = {"max_new_tokens": 10**6, "overflow": "slide", "ignore_eos": True, "seed": 3}


@pytest.fixture
def lm(tiny_checkpoint: Path) -> Iterator[gpt2.LanguageModel]:
    model = gpt2.load(tiny_checkpoint, threads=1)
    yield model
    deadline = time.monotonic() + 10  # what was cancelled in a background step is there until that step ends
    while model.stats().blocks_used and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = model.stats()
    assert (stats.waiting, stats.running, stats.blocks_used) == (0, 0, 0)


def options(seed: int) -> dict[str, Any]:
    return {"seed": seed, "max_new_tokens": 5 + seed % 30, "n": 1 + seed % 2, "logprobs": 1}


def test_coroutines_get_what_threads_get(lm: gpt2.LanguageModel) -> None:
    prompts = ["the sea", "", "x" * 30, "the s"] * 8
    expected = [lm.generate(prompt, **options(seed)) for seed, prompt in enumerate(prompts)]
    got: list[Any] = [None] * len(prompts)

    def work(first: int) -> None:
        for at in range(first, len(prompts), 4):
            got[at] = lm.generate(prompts[at], **options(at))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()

    async def everything() -> list[Any]:
        return await asyncio.gather(*(lm.agenerate(p, **options(at)) for at, p in enumerate(prompts)))

    assert asyncio.run(everything()) == expected
    for thread in threads:
        thread.join()
    assert got == expected
    assert lm.stats().prefix_hit_tokens == 0  # no prompt here fills a block of 64


def test_async_stream_is_the_stream(lm: gpt2.LanguageModel) -> None:
    async def chunks() -> list[gpt2.Chunk]:
        return [chunk async for chunk in lm.astream("the", seed=1, max_new_tokens=20, n=2)]

    assert asyncio.run(chunks()) == list(lm.stream("the", seed=1, max_new_tokens=20, n=2))

    async def nothing() -> list[gpt2.Chunk]:
        return [chunk async for chunk in lm.astream("the", seed=1, max_new_tokens=0)]

    assert asyncio.run(nothing()) == list(lm.stream("the", seed=1, max_new_tokens=0))


def test_wrong_arguments_raise_at_the_call(lm: gpt2.LanguageModel) -> None:
    with pytest.raises(errors.UnknownOption):
        lm.astream("the", tempreature=1)
    with pytest.raises(errors.InvalidRequest, match="timeout"):
        lm.generate("the", timeout=0)
    with pytest.raises(errors.InvalidRequest, match="timeout"):
        lm.stream("the", timeout=float("nan"))


def test_closing_a_stream_frees_its_blocks_at_once(lm: gpt2.LanguageModel) -> None:
    streams = [lm.stream("the", **{**LONG, "n": 2}) for _ in range(4)]
    for stream in streams:
        next(stream)
    assert lm.stats().running == 8
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    assert lm.stats().blocks_used == 0
    assert lm.stats().cancelled == 8


def test_cancelling_a_task_frees_its_blocks(lm: gpt2.LanguageModel) -> None:
    async def main() -> None:
        task = asyncio.create_task(lm.agenerate("the", **LONG))
        async for _ in lm.astream("the", max_new_tokens=10, seed=1):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        chunks = lm.astream("the", **LONG)
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while lm.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)  # the step that runs may last a moment longer


def test_the_background_thread_ends_with_the_last_request(lm: gpt2.LanguageModel) -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    for _ in range(3):
        asyncio.run(lm.agenerate("the", max_new_tokens=5))  # type: ignore[arg-type]
        deadline = time.monotonic() + 10
        while "gpt2-async" in names() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "gpt2-async" not in names()


def test_a_coroutine_that_does_not_read_stops_nobody(lm: gpt2.LanguageModel) -> None:
    async def main() -> int:
        slow = lm.astream("the", **LONG)
        await anext(slow)
        for _ in range(40):
            await lm.agenerate("the", seed=1, max_new_tokens=50, ignore_eos=True)
        before = lm.stats().tokens_chosen
        await asyncio.sleep(0.2)
        assert lm.stats().tokens_chosen == before  # it is paused, and nothing else runs
        read = 0
        async for _ in slow:
            read += 1
            if read == 1000:  # more than may wait: it went on when it was read
                break
        await slow.aclose()  # type: ignore[attr-defined]
        return read

    assert asyncio.run(asyncio.wait_for(main(), 60)) == 1000


def test_a_full_queue_is_an_error_at_once_and_a_call_with_many_prompts_waits(tiny_checkpoint: Path) -> None:
    small = gpt2.load(tiny_checkpoint, max_batch=2, max_queue=1)
    expected = [gpt2.load(tiny_checkpoint).generate("the", seed=1, max_new_tokens=3)] * 20
    assert small.generate(["the"] * 20, seed=1, max_new_tokens=3) == expected
    streams = [small.stream("the", **LONG) for _ in range(3)]
    for stream in streams:
        next(stream)
    with pytest.raises(errors.Overloaded, match="queue is full"):
        small.generate("the")
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    assert small.generate("the", seed=1, max_new_tokens=3) == expected[0]


def test_a_request_that_waits_too_long_is_told_so(tiny_checkpoint: Path) -> None:
    lm = gpt2.load(tiny_checkpoint, max_batch=1)
    first = lm.stream("the", **LONG)
    next(first)
    late = lm.stream("the", timeout=1e-6, seed=1)
    with pytest.raises(errors.DeadlineExpired, match="timeout"):
        next(late)
    assert next(first).tokens


def test_a_prompt_is_not_computed_twice_unless_the_salt_differs() -> None:
    lm = gpt2.load()
    ids = [i % 200 for i in range(130)]
    first = lm.generate(ids, seed=1, max_new_tokens=5)
    assert lm.stats().prefix_hit_tokens == 0
    assert lm.generate(ids, seed=1, max_new_tokens=5) == first
    assert lm.stats().prefix_hit_tokens == 128
    assert lm.generate(ids, seed=1, max_new_tokens=5, salt="another") == first
    assert lm.stats().prefix_hit_tokens == 128
    without = gpt2.load(prefix_cache=False)
    assert [without.generate(ids, seed=1, max_new_tokens=5) for _ in range(2)] == [first, first]
    assert without.stats().prefix_hit_tokens == 0


def test_256_together_are_what_each_is_alone(tiny_checkpoint: Path) -> None:
    lm = gpt2.load(tiny_checkpoint, threads=2)
    prompts = [[i % 200 + 1 for i in range(at, at + 1 + at % 20)] for at in range(256)]
    together = lm.generate(prompts, seed=1, max_new_tokens=8)
    assert lm.stats().preemptions == 0
    assert together == [lm.generate(prompt, seed=1, max_new_tokens=8) for prompt in prompts]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cache_bytes", 0), ("cache_bytes", 100), ("cache_bytes", "1G"), ("max_batch", 0), ("max_batch", 257),
        ("max_batch", True), ("max_queue", -1),
    ],
)  # fmt: skip
def test_load_refuses_what_makes_no_engine(tiny_checkpoint: Path, option: str, value: object) -> None:
    with pytest.raises(errors.InvalidRequest, match=option):
        gpt2.load(tiny_checkpoint, **{option: value})  # type: ignore[arg-type]


def test_little_memory_is_enough_or_says_what_is_needed(tiny_checkpoint: Path) -> None:
    lm = gpt2.load(tiny_checkpoint, max_batch=4)
    block = lm.stats().block_bytes
    ids = list(range(1, 40))
    expected = lm.generate([ids] * 8, seed=1, max_new_tokens=20, n=2)
    tight = gpt2.load(tiny_checkpoint, cache_bytes=block)
    assert tight.stats().blocks == 1
    assert tight.generate([ids] * 8, seed=1, max_new_tokens=20, n=2) == expected
    assert tight.stats().preemptions > 0
    assert len(tight.logits(ids)) == len(ids)


EDGES = [0, 1, 63, 64, 65]


@pytest.mark.parametrize("length", EDGES)
def test_prompts_at_the_edges(tiny_checkpoint: Path, length: int) -> None:
    """R10: empty, one, the window less one, the window, one more; all of them the end-of-text token."""
    lm = gpt2.load(tiny_checkpoint)
    for token in (lm.tokenizer.eos_id, 1):
        if length == 65:
            with pytest.raises(errors.PromptTooLong):
                lm.generate([token] * length)
            continue
        got = lm.generate([token] * length or "", max_new_tokens=3, seed=1, ignore_eos=True)
        assert isinstance(got, gpt2.Completion)
        assert len(got.tokens) == min(3, 65 - max(length, 1))


@pytest.mark.parametrize("token", [269, -1, 2**31, 2**63, -(2**63), 50257])
def test_ids_outside_the_vocabulary(tiny_checkpoint: Path, token: int) -> None:
    lm = gpt2.load(tiny_checkpoint)
    for call in (lm.generate, lm.logits, lm.score, lambda ids: lm.embed([ids])):
        with pytest.raises(errors.InvalidRequest):
            call([1, token])
