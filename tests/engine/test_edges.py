"""R10: the values at and beyond the edges of what a call takes. Each is refused by an error that says what it
got and what it expected, or has a result; nothing else is raised, nothing stays in the engine, and a
request that is asked after each of them has the bits that it had before.

The model is small but for its window, which is GPT-2's 1,024. Values for one option are tried on every
option.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import gpt2
from conftest import write_vocabulary
from gpt2.config import GPT2Config
from gpt2.decoding.options.table import RULES
from gpt2.errors import Error, InvalidRequest, Overloaded, PromptTooLong, UnknownOption
from gpt2.weights import expected_shapes, save_safetensors

WINDOW, V = 1024, 269
EOT = V - 1
SURROGATE = "a\udfffb"
NOT_ONE = (1.0, math.nan, math.inf, True, np.True_, np.float32(1), "7", b"7", None, 1j, Decimal(1), object())
"""What is no id, among ids that are."""


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> gpt2.LanguageModel:
    folder = tmp_path_factory.mktemp("edges")
    assert write_vocabulary(folder) == V
    sizes = {"vocab_size": V, "n_positions": WINDOW, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": EOT, "eos_token_id": EOT}
    config = json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes, **ends})
    (folder / "config.json").write_text(config, encoding="utf-8")
    rng = np.random.default_rng(10)
    shapes = expected_shapes(GPT2Config.from_json(folder / "config.json")).items()
    save_safetensors(
        folder / "model.safetensors", {n: rng.normal(0, 0.4, s).astype(np.float32) for n, s in shapes}
    )
    return gpt2.load(folder)


def bits(lm: gpt2.LanguageModel) -> tuple[object, bytes]:
    sampled = lm.generate([1, 2, 3], seed=4, max_new_tokens=6, top_p=0.9, logprobs=2)
    return sampled, lm.logits([1, 2, 3]).tobytes()


@pytest.fixture(autouse=True)
def afterwards(lm: gpt2.LanguageModel) -> Iterator[Callable[[], None]]:
    """After the test, and wherever it asks: the answers are those of before, and the engine is empty."""
    before = bits(lm)

    def check() -> None:
        assert bits(lm) == before
        stats = lm.stats()
        kept = 8 * -(-WINDOW // 64)  # suggest() keeps the last prefixes, to go on from them
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.blocks_used <= kept

    yield check
    check()


def refused(call: Callable[[], object], kind: type[Error] = InvalidRequest) -> Error:
    """The error, which must say what, got and expected."""
    with pytest.raises(Error) as caught:
        call()
    error = caught.value
    assert isinstance(error, kind), f"{type(error).__name__}, not {kind.__name__}: {error}"
    assert error.what
    assert error.got is not None, error
    assert error.expected is not None, error
    assert str(error).isprintable() or "\n" in str(error)
    assert len(str(error)) < 1000, "an error is no dump"
    return error


def failure(call: Callable[[], object]) -> Error | None:
    try:
        call()
    except Error as error:
        return error
    return None


def apis(lm: gpt2.LanguageModel) -> dict[str, Callable[[Any], object]]:
    """Everything that takes ids."""
    return {
        "generate": lambda ids: lm.generate(ids, max_new_tokens=2, seed=1),
        "stream": lambda ids: list(lm.stream(ids, max_new_tokens=2, seed=1)),
        "beams": lambda ids: lm.generate(ids, max_new_tokens=2, num_beams=2),
        "session": lambda ids: lm.session(max_new_tokens=2, seed=1).append(ids),
        "logits": lm.logits,
        "hidden_states": lm.hidden_states,
        "score": lm.score,
        "next_tokens": lm.next_tokens,
        "embed": lm.embed,
        "suggest": lm.suggest,
        "decode": lm.tokenizer.decode,
    }


ONE = ("stream", "session", "logits", "hidden_states", "score", "next_tokens", "suggest")
"""Those that take one sequence of ids and nothing else."""


# --- ids ---


@pytest.mark.parametrize(
    "id", [-1, V, 50257, 2**31 - 1, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1]
)
def test_an_id_outside_the_vocabulary_is_named_with_its_position(lm: gpt2.LanguageModel, id: int) -> None:
    for name, call in apis(lm).items():
        for ids in ([id], [1, id], [1, 2, id, -1]):
            error = refused(lambda call=call, ids=ids: call(ids))
            assert f"position {ids.index(id)}" in error.what, f"{name}: {error}"
            assert str(id) in str(error.got) or "64 bits" in str(error.got), f"{name}: {error}"


@pytest.mark.parametrize("value", NOT_ONE, ids=repr)
def test_what_is_no_whole_number_is_no_id(lm: gpt2.LanguageModel, value: Any) -> None:
    for name, call in apis(lm).items():
        if isinstance(value, (str, bytes)) and name in ("generate", "beams", "embed"):
            continue  # a list of texts has texts
        error = refused(lambda call=call: call([1, value]))
        assert "position 1" in error.what, f"{name}: {error}"


@pytest.mark.parametrize(
    "values",
    [None, 5, 1.5, object(), np.array(5), b"abc", bytearray(b"abc"), memoryview(b"abc"), [[1, [2]]]],
    ids=repr,
)
def test_what_is_no_sequence_of_ids_is_no_prompt(lm: gpt2.LanguageModel, values: Any) -> None:
    for name, call in apis(lm).items():
        if name == "decode" and isinstance(values, (bytes, bytearray, memoryview)):
            continue  # a sequence of small numbers, also of ids
        refused(lambda call=call: call(values))


def test_arrays_that_are_no_ids_are_refused(lm: gpt2.LanguageModel) -> None:
    arrays: list[Any] = [
        np.array([1.0]), np.array([True]), np.array([1, 2], object), np.array(["1"]), np.array([1 + 1j]),
        np.array(["2020-01-01"], "datetime64[D]"), np.zeros(2, [("a", "i4")]), np.array([np.nan]),
    ]  # fmt: skip
    for array in arrays:
        for name in ONE:
            refused(lambda name=name, array=array: apis(lm)[name](array))


def test_every_form_of_the_same_ids_has_the_same_result(lm: gpt2.LanguageModel) -> None:
    ids = [5, 6, 7]
    forms: list[Any] = [
        tuple(ids), range(5, 8), [np.int64(5), np.uint8(6), 7], np.array([7, 6, 5])[::-1],
        np.array(ids, ">i2"),
        *(np.array(ids, kind) for kind in ("i1", "u1", "i4", "u4", "i8", "u8")),
    ]  # fmt: skip
    for name in ONE:
        want = apis(lm)[name](ids)
        for form in forms:
            assert np.array_equal(apis(lm)[name](form), want) if name == "logits" else True
            if name not in ("session", "hidden_states", "logits"):
                assert apis(lm)[name](form) == want, (name, form)


# --- lengths around the window ---


def test_nothing_is_an_end_of_text(lm: gpt2.LanguageModel) -> None:
    how: dict[str, Any] = {"seed": 3, "max_new_tokens": 4}
    want = lm.generate([EOT], **how)
    assert lm.generate("", **how) == want
    assert lm.generate(np.empty(0, dtype=np.int32), **how) == want
    assert lm.generate([[]], **how) == [want]
    assert lm.generate([], **how) == [], "no prompts, no answers"
    assert lm.generate(["", [], [EOT]], **how) == [want] * 3
    assert next(iter(lm.stream([], **how))).tokens == want.tokens[:1]
    assert lm.next_tokens([]) == lm.next_tokens([EOT])
    assert lm.score([]).tokens == lm.score("").tokens == ()
    assert lm.score([]).perplexity == 1.0
    assert lm.embed([]).shape == (0, 16)
    for ids in ([], np.empty(0, dtype=np.int64)):
        refused(lambda ids=ids: lm.logits(ids))
        refused(lambda ids=ids: lm.hidden_states(ids))


@pytest.mark.parametrize("length", [1, 64, WINDOW - 1, WINDOW])
def test_a_text_of_ends_is_a_text(lm: gpt2.LanguageModel, length: int) -> None:
    ids = [EOT] * length
    answer: Any = lm.generate(ids, max_new_tokens=2, seed=1, ignore_eos=True)
    assert answer.prompt_tokens == length
    assert len(answer.tokens) == min(2, WINDOW + 1 - length)
    assert np.isfinite(lm.logits(ids)).all()
    assert len(lm.score(ids).logprobs) == length


STRATEGIES: dict[str, dict[str, Any]] = {
    "sampling": {},
    "sliding": {"overflow": "slide"},
    "beams": {"num_beams": 2},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "lookup": {"prompt_lookup_num_tokens": 3, "temperature": 0},
    "best of": {"best_of": 2},
    "healing": {"token_healing": True},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lengths_around_the_window(
    lm: gpt2.LanguageModel, strategy: str, afterwards: Callable[[], None]
) -> None:
    """The token after the last position is chosen, and never computed: a full window has room for one."""
    how: dict[str, Any] = {"seed": 1, "max_new_tokens": 3, "ignore_eos": True, **STRATEGIES[strategy]}
    for length in (1, WINDOW - 2, WINDOW - 1, WINDOW):
        answer: Any = lm.generate([i % (V - 1) for i in range(length)], **how)
        room = 3 if strategy == "sliding" else min(3, WINDOW + 1 - length)
        if strategy == "contrastive":  # computes each candidate to rank it, the last one too
            room = min(3, WINDOW - length)
        if strategy != "healing":  # which takes tokens of the prompt back
            assert answer.prompt_tokens == length
            assert len(answer.tokens) == room, (length, answer.finish_reason)
        assert answer.finish_reason == ("length" if len(answer.tokens) == 3 else "context")
        assert answer.truncated is None
        afterwards()
    ids = [i % V for i in range(WINDOW + 1)]
    error = refused(lambda: lm.generate(ids, **how), PromptTooLong)
    assert error.got == "1025 tokens"
    assert "truncate=" in str(error.hint)
    for side in ("left", "right", "middle"):
        answer = lm.generate(ids, truncate=side, **how)
        assert answer.truncated.original == WINDOW + 1
        assert len(answer.tokens) == 3


def test_what_reads_a_whole_text_reads_a_window_and_no_more(lm: gpt2.LanguageModel) -> None:
    for name in ("logits", "hidden_states", "next_tokens", "score"):
        call = apis(lm)[name]
        call([1] * (WINDOW - 1))
        call([1] * WINDOW)
        refused(lambda call=call: call([1] * (WINDOW + 1)), PromptTooLong)
    for name in ("embed", "suggest"):
        call = apis(lm)[name]
        call([[1] * WINDOW] if name == "embed" else [1] * WINDOW)
        refused(lambda call=call: call([1] * (WINDOW + 1)), PromptTooLong)
    assert len(lm.score([1] * (WINDOW + 1), stride=512).logprobs) == WINDOW + 1


# --- options ---

NUMBERS: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -0.0, 0, 1e-45, 1e-300, 1e39, 1e308, 10**400, -(10**400), 2**31 - 1,
    2**31, 2**32, 2**63, 2**64, 3.0, 3.5, True, np.True_, np.float64("nan"), np.float32(0.5), np.int64(2),
    np.array([0.5]), np.array([1, 2]), np.array(True), Decimal("NaN"), Decimal("0.5"), 1j, "1", "x", b"1",
    None, [], {}, object(), print,
]  # fmt: skip
CONTAINERS: list[Any] = [
    [math.nan], [True], [-1], [V], [2**31], [2**63], [[]], [None], [""], ["\ud800"], {math.nan: 1},
    {1: math.nan}, {1: math.inf}, {1: 1e39}, {1: 10**400}, {True: 1}, {1: True}, {V: 1}, {"1": 1}, {"x": 1},
    [[1, 2**31]], [[V, 1]], [[1, V]], [[[V], 1.0]], [[[1], math.nan]], [5, 5, 5], SURROGATE, "\0", "a\0b",
    "\ud83d\ude00", "x" * 10_000,
]  # fmt: skip
LONG = {"max_new_tokens": 2**31 - 1}


@pytest.mark.parametrize("name", RULES)
def test_an_option_takes_a_value_or_says_what_it_takes(lm: gpt2.LanguageModel, name: str) -> None:
    """An error that names the option, or options that the engine can be asked with."""
    for value in [*NUMBERS, *CONTAINERS]:
        if failure(lambda value=value: gpt2.SamplingParams(**{name: value})) is not None:
            error = refused(lambda value=value: gpt2.SamplingParams(**{name: value}))
            assert {"constraints": "force_words_ids"}.get(name, name) in error.what or name in error.what
            continue
        # True is a bool, and a token or a number nowhere.
        if RULES[name].spec.type is not bool and name != "early_stopping":
            assert not isinstance(value, (bool, np.bool_)), f"{name}={value!r}"
            assert not (isinstance(value, np.ndarray) and value.dtype == bool), f"{name}={value!r}"
        how = {"seed": 1, "max_new_tokens": 2, name: value}
        if name in ("best_of", "num_beams", "n", "num_return_sequences") and isinstance(value, int):
            continue  # see below
        if (error := failure(lambda how=how: lm.generate([1, 2, 3], **how))) is not None:
            assert (error.got is None, error.expected is None) == (False, False), error


@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 10**400], ids=lambda v: str(v)[:5])
def test_a_number_that_is_none_in_float32_is_refused_by_name(
    lm: gpt2.LanguageModel, field: str, value: float
) -> None:
    error = refused(lambda: lm.generate([1], **{field: value}))
    assert error.what == field


def test_the_ends_of_the_ranges_have_results(lm: gpt2.LanguageModel) -> None:
    greedy: Any = lm.generate([1, 2], temperature=0, max_new_tokens=5)
    tiny: Any = lm.generate([1, 2], temperature=1.18e-38, max_new_tokens=5, seed=1)
    one: Any = lm.generate([1, 2], top_p=5e-324, max_new_tokens=5, seed=1)
    first: Any = lm.generate([1, 2], top_k=1, max_new_tokens=5, seed=1)
    assert tiny.tokens == one.tokens == first.tokens == greedy.tokens
    flat: Any = lm.generate([1, 2], temperature=3.4e38, max_new_tokens=200, seed=1, ignore_eos=True)
    assert len(set(flat.tokens)) > 60, "every token is equally probable"
    plain: Any = lm.generate([1, 2], max_new_tokens=5, seed=1)
    for off in ({"top_k": 2**31 - 1}, {"top_p": 1.0}, {"min_p": 0.0}, {"top_k": V}, {"top_k": V + 1}):
        assert lm.generate([1, 2], max_new_tokens=5, seed=1, **off) == plain


def test_huge_counts_end_where_the_window_does(lm: gpt2.LanguageModel) -> None:
    for how in (
        {},
        {"num_beams": 2},
        {"min_new_tokens": 2**31 - 1},
        {"overflow": "stop", "max_length": 2**31 - 1},
    ):
        answer: Any = lm.generate([1] * (WINDOW - 3), seed=1, ignore_eos=True, **LONG, **how)
        assert (answer.finish_reason, len(answer.tokens)) == ("context", 4)
    chunks = lm.stream([1] * WINDOW, seed=1, overflow="slide", **LONG)
    assert len(next(chunks).tokens) == 1
    chunks.close()
    for count in (-1, 2**31, 2**63, 10**400, 1.5, True):
        refused(lambda count=count: lm.generate([1], max_new_tokens=count))
    assert lm.generate([1], max_new_tokens=0).tokens == ()


def test_more_alternatives_than_there_is_room_for_cost_nothing(lm: gpt2.LanguageModel) -> None:
    most = 256 + 1024  # max_batch + max_queue
    for n in (most + 1, 2**16):
        error = refused(lambda n=n: lm.generate([1], n=n, max_new_tokens=1), Overloaded)
        assert str(n) in str(error.got)
    for n in (0, -1, 2**16 + 1, 2**31 - 1, 2**32, 2**63):
        refused(lambda n=n: lm.generate([1], n=n))
        refused(lambda n=n: lm.suggest([1], n))
    assert len(lm.suggest([1], 256, max_new_tokens=1)) <= 256
    refused(lambda: lm.suggest([1], 257))


# --- texts ---


@pytest.mark.parametrize("text", ["\ud800", SURROGATE, "\ud83d\ude00"], ids=ascii)
def test_half_a_surrogate_pair_is_no_text_anywhere(lm: gpt2.LanguageModel, text: str) -> None:
    for name, call in apis(lm).items():
        if name not in ("logits", "hidden_states", "decode"):
            assert "surrogate" in str(refused(lambda call=call: call(text)))
    for name, value in {
        "stop": text, "bad_words": text, "dry_sequence_breakers": text, "choice": text, "regex": text,
        "grammar": f'start: "{text}"', "json_schema": {"const": text}, "negative_prompt": text,
    }.items():  # fmt: skip
        with_it = {"dry_multiplier": 1.0} if name.startswith("dry") else {}
        error = refused(lambda how={name: value, **with_it}: lm.generate([1], **how))
        assert name in error.what
        assert "surrogate" in str(error)
    assert "surrogate" in str(refused(lambda: lm.generate([1], salt=text)))
    with pytest.raises(UnknownOption):
        lm.generate([1], **{text: 1})


@pytest.mark.parametrize("text", ["\0", "a\0b", "\0" * 50, "\U0010ffff", "\r\n", "e\u0301"], ids=ascii)
def test_a_nul_is_a_character_like_any_other(lm: gpt2.LanguageModel, text: str) -> None:
    how: dict[str, Any] = {"max_new_tokens": 4, "seed": 1}
    assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text
    answer: Any = lm.generate(text, **how)
    assert answer.prompt_tokens == len(lm.tokenizer.encode(text))
    for name in ("stop", "bad_words", "negative_prompt"):
        options = {name: text, **({"guidance_scale": 1.5} if name == "negative_prompt" else {})}
        assert len(lm.generate(text, **how, **options).tokens) == 4
    assert lm.generate(text, salt=text, **how) == answer
    chosen: Any = lm.generate([1], choice=text, seed=1, max_new_tokens=200)
    assert chosen.text == text


def test_a_stop_string_with_a_nul_stops_before_it(lm: gpt2.LanguageModel) -> None:
    ids = lm.tokenizer.encode("ab\0cd")
    forced = {"forced_decoder_ids": [[1 + at, id] for at, id in enumerate(ids)], "max_new_tokens": len(ids)}
    for how in ({}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}):
        if not how:
            answer: Any = lm.generate([1], stop=["\0", "\0"], seed=1, **forced)
            assert (answer.text, answer.finish_reason, answer.stop) == ("ab", "stop", "\0")
        else:
            lm.generate([1], stop="\0", max_new_tokens=3, seed=1, **how)


def test_stop_ids_that_are_given_twice_count_once(lm: gpt2.LanguageModel) -> None:
    first: Any = lm.generate([1], temperature=0, max_new_tokens=3)
    stop = first.tokens[0]
    for ids in ([stop], [stop] * 1000, [stop, 7, stop, 7], (stop, EOT, EOT), {stop}):
        answer: Any = lm.generate([1], temperature=0, max_new_tokens=3, stop_token_ids=ids)
        assert (answer.tokens, answer.finish_reason, answer.stop) == ((stop,), "stop", stop)
    assert lm.generate([1], stop=["zz"] * 1000, seed=1, max_new_tokens=2) == lm.generate(
        [1], stop="zz", seed=1, max_new_tokens=2
    )
    every = list(range(V))
    refused(lambda: lm.generate([1], stop_token_ids=every, min_new_tokens=1, seed=1))
    refused(lambda: lm.generate([1], suppress_tokens=every, seed=1))
    refused(lambda: lm.generate([1], logit_bias=dict.fromkeys(every, -math.inf), seed=1))


# --- what is no option ---


@pytest.mark.parametrize("value", [math.nan, 0, -1, -math.inf, True, "1", b"1", [], object()], ids=repr)
def test_a_timeout_is_a_time(lm: gpt2.LanguageModel, value: Any) -> None:
    refused(lambda: lm.generate([1], timeout=value))


def test_any_time_may_be_waited(lm: gpt2.LanguageModel) -> None:
    want = lm.generate([1], seed=1, max_new_tokens=2)
    for value in (None, 1e9, 1e308, math.inf, 10**400, 5):
        assert lm.generate([1], seed=1, max_new_tokens=2, timeout=value) == want


@pytest.mark.parametrize("value", [None, 1, b"x", ["a"], object()], ids=repr)
def test_a_salt_is_a_text(lm: gpt2.LanguageModel, value: Any) -> None:
    refused(lambda: lm.generate([1], salt=value))
    refused(lambda: lm.suggest([1], salt=value))


@pytest.mark.parametrize(
    "value",
    [-(2**63), -(10**30), 2**31, 2**63, 10**400, 1.0, math.nan, True, "1", object()],
    ids=lambda v: ascii(v)[:12],
)
def test_places_are_whole_numbers_in_range(lm: gpt2.LanguageModel, value: Any) -> None:
    refused(lambda: lm.logits([1, 2], first=value))
    refused(lambda: lm.embed([1], layer=value))
    refused(lambda: lm.score([1] * 9, stride=value))
    if not (isinstance(value, int) and value > 0) or isinstance(value, bool):
        refused(lambda: lm.next_tokens([1], value))
    else:
        assert len(lm.next_tokens([1], value)) == V
