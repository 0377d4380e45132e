"""A session is the request for its tokens: the same bits, at the price of what is new."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from gpt2 import errors
from gpt2.decoding import TEMPLATES, Template
from gpt2.engine.history import kept_tokens, window_after, window_at_start

BLOCK = 64
WINDOW = 64  # of tiny_checkpoint


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=1)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> gpt2.LanguageModel:
    return gpt2.load(tiny_checkpoint, threads=1)


def state(session: gpt2.Session) -> tuple[Any, ...]:
    return session.tokens, session.turns, session.window, session.draws, session.seed, session.marks


# --- what a turn gives, and what it costs ---


def test_a_reply_is_what_the_tokens_before_it_get(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=7, temperature=0.9, max_new_tokens=25, logprobs=2, template="story")
    for message in ("It was night.", "Then the door opened.", "A stranger came in"):
        whole = session.generate(message)
        length = session.turns[-1].end - len(whole.tokens)
        alone = lm.generate(
            session.tokens[:length], seed=whole.seed, temperature=0.9, max_new_tokens=25, logprobs=2
        )
        assert whole == alone
    assert session.turns[0].seed == 7
    assert len({turn.seed for turn in session.turns}) == 3
    assert session.text == lm.tokenizer.decode(session.tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "do_sample": True, "top_k": 20},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        {"penalty_alpha": 0.5, "top_k": 4},
        {"dola_layers": "high", "temperature": 0.9},
        {"guidance_scale": 1.7, "negative_prompt": "A sad story"},
        {"best_of": 3},
        {"prompt_lookup_num_tokens": 4, "temperature": 0},
        {"regex": "[a-z ]{5,12}\\."},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_turn_may_be_decoded_in_any_way(options: dict[str, Any], lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=3, max_new_tokens=12, template="story")
    for message in ("It was night.", "Then the door opened."):
        reply = session.generate(message, **options)
        length = session.turns[-1].end - len(reply.tokens)
        assert reply == lm.generate(session.tokens[:length], seed=reply.seed, max_new_tokens=12, **options)
    session.undo()
    assert session.generate("Then the door opened.", **options) == reply


def test_a_turn_costs_what_its_tokens_cost(lm: gpt2.LanguageModel) -> None:
    """At most a block of what was there before is computed again, although the text grows and grows."""
    model = gpt2.load(threads=1)
    session = model.session(seed=1, max_new_tokens=20, ignore_eos=True, template="dialogue")
    for turn in range(12):
        before, length = model.stats(), len(session.tokens)
        session.generate(f"What did you see in room {turn}?")
        after, new = model.stats(), len(session.tokens) - length
        assert after.tokens_computed - before.tokens_computed <= new + BLOCK
        assert after.prefix_hit_tokens - before.prefix_hit_tokens >= (length - 1) // BLOCK * BLOCK - BLOCK
    assert len(session.tokens) > 5 * BLOCK


def test_what_was_evicted_costs_time_and_nothing_else(tiny_checkpoint: Path) -> None:
    def talk(lm: gpt2.LanguageModel, disturb: bool) -> tuple[Any, ...]:
        session = lm.session(seed=5, max_new_tokens=8, ignore_eos=True, logprobs=1)
        got = []
        for _ in range(4):
            got.append(session.generate("the sea "))
            if disturb:
                lm.generate("x" * 60, max_new_tokens=4)
        return (*got, session.tokens)

    roomy = gpt2.load(tiny_checkpoint, threads=1)
    one_block = roomy.stats().block_bytes
    tight = gpt2.load(tiny_checkpoint, threads=1, cache_bytes=one_block, prefix_cache=True)
    none = gpt2.load(tiny_checkpoint, threads=1, prefix_cache=False)
    assert talk(roomy, False) == talk(tight, True) == talk(none, True)


def test_each_seed_has_its_own_draws() -> None:
    from gpt2.decoding.seeds import draw_seed

    seeds = [0, 1, 2, 2**32, 2**64 - 1]
    made = [draw_seed(seed, draw) for seed in seeds for draw in range(2000)]
    assert len(set(made)) == len(made)
    assert all(0 <= seed < 2**64 for seed in made)
    assert draw_seed(2**64 - 1, 0) == 2**64 - 1


# --- the window ---


@given(st.integers(1, WINDOW), st.lists(st.integers(1, 70), min_size=1, max_size=4))
@settings(max_examples=30)
def test_turns_slide_as_one_request_does(tiny: Any, begin: int, pieces: list[int]) -> None:
    """Greedy, so that only the window can make a difference: n replies are one reply, cut anywhere."""
    ids = [(3 * i * i + i) % 250 for i in range(begin)]
    greedy: dict[str, Any] = {"temperature": 0, "overflow": "slide", "ignore_eos": True}
    whole = tiny.generate(ids, max_new_tokens=sum(pieces), **greedy)
    session = tiny.session(**greedy)
    session.append(ids)
    slides = sum(session.generate(max_new_tokens=piece).slides for piece in pieces)
    assert session.tokens == (*ids, *whole.tokens)
    assert slides == whole.slides
    assert (session.window > 0) == (whole.slides > 0)


def test_a_session_that_does_not_fit_says_so_and_stays(tiny: gpt2.LanguageModel) -> None:
    session = tiny.session(seed=1, max_new_tokens=4, ignore_eos=True)
    session.generate("the sea")
    before = state(session)
    with pytest.raises(errors.PromptTooLong, match="the session does not fit") as caught:
        session.generate("x" * WINDOW)
    assert "slide" in str(caught.value)
    with pytest.raises(errors.PromptTooLong):
        session.stream("x" * WINDOW)
    assert state(session) == before


def test_what_the_policies_forget_is_reported(tiny: gpt2.LanguageModel) -> None:
    session = tiny.session(seed=1, max_new_tokens=4, ignore_eos=True)
    cut = session.generate("x" * 100, truncate="left")
    assert cut.truncated is not None
    assert cut.truncated.original == 100
    assert session.window == 0
    slid = session.generate("y", overflow="slide")
    assert (slid.slides, slid.truncated) == (1, None)
    assert session.window == 105 - WINDOW // 2
    full = session.branch()
    full.append("z" * (WINDOW - 40))  # beside the 36 that it sees: then 4 places are left
    assert full.generate().finish_reason == "length"
    assert full.generate(max_new_tokens=9).finish_reason == "context"


@given(st.integers(2, 80), st.integers(0, 200), st.integers(1, 80), st.integers(0, 300))
def test_the_window_is_never_empty_nor_too_long(
    positions: int, window: int, visible: int, generated: int
) -> None:
    length = window + visible
    start = window_at_start(window, length, positions)
    assert start >= window
    assert 1 <= length - start <= positions
    after = window_after(start, length, generated, positions)
    assert 1 <= length + generated - after <= positions + 1


# --- what stays of a reply ---


def test_a_stop_string_ends_a_reply_and_is_not_kept(lm: gpt2.LanguageModel) -> None:
    free = lm.generate("The old man", seed=2, max_new_tokens=60, temperature=0.8)
    for stop in (free.text[20:23], free.text[31:32], free.text[2:9]):
        session = lm.session(seed=2, max_new_tokens=60, temperature=0.8)
        got = session.generate("The old man", stop=stop)
        assert got.finish_reason == "stop"
        assert session.turns[-1].reply == got.text
        assert lm.tokenizer.decode(session.tokens) == session.text == "The old man" + got.text


@given(st.integers(0, 10**6), st.data())
def test_kept_tokens_are_the_text(lm: Any, seed: int, data: Any) -> None:
    """Wherever a text is cut, even within a token or before half a character, its tokens decode to it."""
    tokens = data.draw(st.lists(st.integers(0, lm.tokenizer.vocab_size - 1), max_size=12))
    whole = lm.tokenizer.decode(tokens)
    text = whole[: data.draw(st.integers(0, len(whole)))]
    kept = kept_tokens(tokens, text, "stop", "x", lm.tokenizer)
    assert lm.tokenizer.decode(kept) == text
    assert kept_tokens(tokens, text, "length", None, lm.tokenizer) == tokens
    assert kept_tokens([*tokens, 5], whole, "eos", None, lm.tokenizer) == tokens
    assert kept_tokens([*tokens, 5], whole, "stop", 5, lm.tokenizer) == tokens


def test_the_end_of_text_token_is_not_kept(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=3, stop_token_ids=[lm.tokenizer.encode(".")[0]], max_new_tokens=200)
    got = session.generate("The sea was calm")
    assert got.finish_reason == "stop"
    assert session.tokens == (*lm.tokenizer.encode("The sea was calm"), *got.tokens[:-1])


def test_a_session_may_begin_with_nothing(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=3, max_new_tokens=5)
    first = session.generate()
    assert first == lm.generate("", seed=3, max_new_tokens=5)
    assert session.tokens == (lm.tokenizer.eos_id, *first.tokens)
    assert session.text == first.text
    session.append("")
    assert len(session.turns) == 1


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.id)
def test_a_dialogue_is_written_as_its_template_renders_it(lm: Any, template: Template) -> None:
    session = lm.session(seed=4, max_new_tokens=12, template=template, ignore_eos=True)
    session.say("Be kind.", role="system")
    said = [("system", "Be kind.")]
    for message in ("Hello", "What is this?"):
        reply = session.generate(message)
        said.append(("user", message))
        assert session.text == template.render(said) + reply.text
        # What the template writes before a reply may end in a space that the model's reply brings along.
        head = template.roles["assistant"].partition("{text}")[0].removeprefix(template.opening)
        said.append(("assistant", reply.text.removeprefix(head)))
        if head and not reply.text.startswith(head):
            return
    assert [turn.role for turn in session.turns] == ["system", "user", "user"]


def test_an_answer_may_be_asked_for_later(lm: gpt2.LanguageModel) -> None:
    at_once, later = (lm.session(seed=4, max_new_tokens=8, template="chatml") for _ in range(2))
    at_once.generate("Hello")
    later.say("Hello")
    later.generate()
    assert later.text == at_once.text
    more = later.generate()  # its own words, continued: no markup between
    assert later.text == at_once.text + more.text


# --- back and aside ---


def test_undo_stands_where_the_session_stood(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=9, temperature=1.0, max_new_tokens=10)
    session.generate("One.")
    before = state(session)
    first = session.generate("Two.")
    session.undo()
    assert state(session) == before
    assert session.generate("Two.") == first
    session.undo(keep_draws=True)
    assert session.generate("Two.").tokens != first.tokens
    session.undo(2)
    assert state(session) == state(lm.session(seed=9))
    for wrong in (1, 0, -1, True, "1"):
        with pytest.raises(errors.InvalidRequest, match="undo"):
            session.undo(wrong)  # type: ignore[arg-type]


def test_branches_share_the_past_and_nothing_else(lm: gpt2.LanguageModel) -> None:
    model = gpt2.load(threads=1)
    session = model.session(seed=9, max_new_tokens=10)
    session.generate("It was a dark and stormy night. " * 10)
    session.mark("storm")
    other = session.branch()
    assert state(other) == state(session)
    before = model.stats().tokens_computed
    theirs = other.generate("The wind")
    assert model.stats().tokens_computed - before <= BLOCK + 15
    assert state(session) != state(other)
    assert session.generate("The wind") == theirs
    other.rewind("storm")
    assert other.generate("The rain").tokens != theirs.tokens
    assert session.marks == other.marks == {"storm": 1}


def test_marks(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=1, max_new_tokens=3)
    session.mark("start")
    session.generate("a")
    session.mark("cave")
    session.generate("b")
    session.mark("late")
    session.rewind("cave")
    assert session.marks == {"start": 0, "cave": 1}
    assert len(session.turns) == 1
    session.rewind(0)
    assert (session.tokens, session.text) == ((), "")
    for wrong in ("late", 1, -1, None, True):
        with pytest.raises(errors.InvalidRequest, match="rewind"):
            session.rewind(wrong)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="mark"):
        session.mark("")


def test_seed_and_params_may_change(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=1, max_new_tokens=6)
    session.generate("a")
    session.reseed(1)
    again = session.generate("b")
    assert again.seed == 1
    session.params = session.params.replace(temperature=0.0, seed=8)
    assert session.seed == 8
    assert session.generate("c") == lm.generate(
        session.tokens[: session.turns[-1].end - 6], temperature=0, seed=8, max_new_tokens=6
    )
    for wrong in (-1, 2**64, "x", 1.5):
        with pytest.raises(errors.InvalidRequest, match="seed"):
            session.reseed(wrong)  # type: ignore[arg-type]


def test_a_session_is_one_text(lm: gpt2.LanguageModel) -> None:
    session = lm.session()
    for attempt in (
        lambda: lm.session(n=2),
        lambda: session.generate("a", n=2),
        lambda: setattr(session, "params", gpt2.SamplingParams(n=2)),
    ):
        with pytest.raises(errors.InvalidRequest, match="one text"):
            attempt()
    with pytest.raises(errors.InvalidRequest, match="token_healing"):
        session.generate("a", token_healing=True)
    with pytest.raises(errors.UnknownOption, match="temperature"):
        session.generate("a", tempratur=1)
    with pytest.raises(errors.InvalidRequest, match="role"):
        session.generate("a", role="usr")
    with pytest.raises(errors.InvalidRequest, match="position 1"):
        session.append([1, 10**6])
    assert state(session) == state(lm.session(seed=session.seed))


# --- streams ---


def test_a_stream_is_the_reply_piece_by_piece(lm: gpt2.LanguageModel) -> None:
    whole, pieces = (lm.session(seed=2, max_new_tokens=20) for _ in range(2))
    expected = whole.generate("The sea")
    reply = pieces.stream("The sea")
    chunks = list(reply)
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert chunks[-1].completion == reply.completion == expected
    assert state(pieces) == state(whole)


def test_closing_a_stream_keeps_what_was_shown(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=2, max_new_tokens=50, stop="\nUser:")
    with session.stream("The sea") as reply:
        shown = "".join(next(reply).text for _ in range(7))
    assert session.turns[-1].reply == shown
    assert session.turns[-1].finish_reason is None
    assert session.text == "The sea" + shown == lm.tokenizer.decode(session.tokens)
    assert session.generate().text  # and it goes on from there


def test_a_stream_that_showed_nothing_leaves_no_trace(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=2)
    session.stream("The sea").close()
    session.stream("The sea")  # dropped unread
    assert state(session) == state(lm.session(seed=2))


def test_nothing_else_during_a_stream(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=2, max_new_tokens=30)
    session.append("x")
    reply = session.stream("The sea")
    next(reply)
    attempts: list[Any] = [
        lambda: session.append("a"), lambda: session.say("a"), lambda: session.generate("a"),
        lambda: session.undo(), lambda: session.branch(), lambda: session.save("x"),
        lambda: session.reseed(1),
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(errors.InvalidRequest, match="middle of a reply"):
            attempt()
    reply.close()
    session.append("a")


def test_an_error_takes_the_message_back(tiny_checkpoint: Path) -> None:
    lm = gpt2.load(tiny_checkpoint, threads=1, max_batch=1, max_queue=0)
    session = lm.session(seed=2, max_new_tokens=3)
    session.append("the sea")
    before = state(session)
    busy = lm.stream("the", max_new_tokens=10**6, overflow="slide", ignore_eos=True)
    next(busy)
    with pytest.raises(errors.Overloaded):
        session.generate("a")
    with pytest.raises(errors.Overloaded):
        list(session.stream("a"))
    assert state(session) == before
    busy.close()  # type: ignore[attr-defined]
    assert session.generate("a").tokens


class Interrupted:
    """An iterator of chunks that Ctrl-C ends after some."""

    def __init__(self, chunks: Iterator[gpt2.Chunk], after: int) -> None:
        self.chunks, self.after = chunks, after

    def __next__(self) -> gpt2.Chunk:
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt
        return next(self.chunks)


def test_ctrl_c_keeps_what_a_stream_showed_and_undoes_a_whole_reply(lm: Any, monkeypatch: Any) -> None:
    session = lm.session(seed=2, max_new_tokens=30)
    stream = lm.stream
    monkeypatch.setattr(lm, "stream", lambda *a, **k: Interrupted(stream(*a, **k), 5))
    before = state(session)
    with pytest.raises(KeyboardInterrupt):
        session.generate("The sea")
    assert state(session) == before
    reply = session.stream("The sea")
    shown = "".join(next(reply).text for _ in range(5))
    with pytest.raises(KeyboardInterrupt):
        next(reply)
    assert session.text == "The sea" + shown
    assert shown


def test_asyncio_gives_the_same(lm: gpt2.LanguageModel) -> None:
    threads, tasks = (lm.session(seed=6, max_new_tokens=15, template="dialogue") for _ in range(2))

    async def talk() -> list[gpt2.Completion]:
        first = await tasks.agenerate("Hello")
        reply = tasks.astream("And?")
        async for _ in reply:
            pass
        assert reply.completion is not None
        return [first, reply.completion]

    assert asyncio.run(talk()) == [threads.generate("Hello"), threads.generate("And?")]
    assert state(tasks) == state(threads)


def test_a_cancelled_task_leaves_the_session_as_it_was(lm: gpt2.LanguageModel) -> None:
    session = lm.session(seed=6, max_new_tokens=10**6, overflow="slide", ignore_eos=True)
    session.append("x")
    before = state(session)

    async def cancelled() -> None:
        task = asyncio.create_task(session.agenerate("Hello"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reply = session.astream("Hello")
        shown = [await anext(reply) for _ in range(3)]
        await reply.aclose()
        assert session.turns[-1].reply == "".join(chunk.text for chunk in shown)

    asyncio.run(cancelled())
    session.undo()
    assert state(session) == before
