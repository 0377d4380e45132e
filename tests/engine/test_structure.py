"""Grammars, token healing and suggestions in the engine: what they write, and that it is what the readable
strategy over plain logits writes, alone or in company."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from decoding.structures import SCHEMAS, judges
from decoding.trees import FakeTree, run
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.grammar import Grammars, structure_of
from gpt2.decoding.strategies.healing import Healing, TokenIndex, heal
from gpt2.decoding.strategies.masked import masked
from gpt2.engine.structure import Structures
from gpt2.errors import InvalidRequest, PromptTooLong

CASES = judges()
SHORT = [("json_schema", "character"), ("json_schema", "any of"), ("regex", "words"), ("grammar", "sums")]
PROMPT = "She opened the letter and read: "


@pytest.fixture(scope="module")
def lm() -> gpt2.LanguageModel:
    return gpt2.load(threads=2)


@pytest.fixture(scope="module")
def index(lm: gpt2.LanguageModel) -> TokenIndex:
    return TokenIndex(lm.tokenizer, lm.config.vocab_size)


def many(lm: gpt2.LanguageModel, prompt: Any = PROMPT, **options: Any) -> list[gpt2.Completion]:
    done = lm.generate(prompt, **{"max_new_tokens": 300, "seed": 7, **options})
    return done if isinstance(done, list) else [done]


@pytest.mark.parametrize("case", SHORT, ids="-".join)
def test_the_text_obeys_and_is_that_of_the_readable_strategy(case: Any, lm: gpt2.LanguageModel) -> None:
    options, judge = CASES[case]
    params = SamplingParams(**{"max_new_tokens": 300, "seed": 7, "n": 2, **options})
    structure = structure_of(params)
    eos = lm.tokenizer.eos_id
    assert structure is not None
    assert eos is not None
    grammars = Grammars(lm.tokenizer, lm.config.vocab_size)
    make = masked(lambda: grammars.follow(structure, {eos}))
    tree = FakeTree(params, frozenset({eos}), lm.config.vocab_size, lm.logits)
    truth = run(tree, lm.tokenizer.encode(PROMPT), make)
    for completion, written in zip(many(lm, n=2, **options), truth, strict=True):
        judge(completion.text)
        assert list(completion.tokens) == written.tokens
        assert completion.finish_reason == written.finish


def test_a_grammar_with_all_the_other_options(lm: gpt2.LanguageModel) -> None:
    """Sampling rules, log-probabilities, alternatives; whole, streamed and awaited are the same."""
    options: dict[str, Any] = {
        "json_schema": SCHEMAS["nested"], "n": 3, "temperature": 0.9, "top_k": 50, "top_p": 0.95,
        "repetition_penalty": 1.1, "no_repeat_ngram_size": 6, "logprobs": 2, "max_new_tokens": 300, "seed": 3,
    }  # fmt: skip
    whole = many(lm, **options)
    chunks = list(lm.stream(PROMPT, **options))
    for completion in whole:
        json.loads(completion.text)
        own = [chunk for chunk in chunks if chunk.index == completion.index]
        assert "".join(chunk.text for chunk in own) == completion.text
        assert own[-1].completion == completion
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.tokens)
    assert asyncio.run(lm.agenerate(PROMPT, **options)) == whole
    without = many(lm, **{**options, "logprobs": None})
    assert [c.tokens for c in without] == [c.tokens for c in whole]


def test_log_probabilities_are_the_models(lm: gpt2.LanguageModel) -> None:
    (done,) = many(lm, json_schema=SCHEMAS["character"], logprobs=0)
    assert done.logprobs is not None
    ids = [*lm.tokenizer.encode(PROMPT), *done.tokens]
    rows = lm.logits(ids)[-len(done.tokens) - 1 : -1].astype(np.float64)
    exact = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    assert done.logprobs == pytest.approx(
        [row[t] for row, t in zip(exact, done.tokens, strict=True)], abs=1e-5
    )


def test_requests_of_every_kind_in_one_batch_are_as_alone(lm: gpt2.LanguageModel) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        (PROMPT, {"json_schema": SCHEMAS["character"], "n": 2}),
        ("The old man", {"max_new_tokens": 20}),
        (PROMPT, {"regex": r"[A-Z][a-z]{0,9}( [a-z]{1,9}){2,5}\.", "temperature": 0.0}),
        ("The little gir", {"token_healing": True, "max_new_tokens": 12, "n": 2}),
        (PROMPT, {"choice": ("yes", "no", "perhaps"), "n": 3}),
    ]
    alone = [many(lm, prompt, **options) for prompt, options in requests]
    together: list[Any] = [None] * len(requests)

    def ask(at: int) -> None:
        together[at] = many(lm, requests[at][0], **requests[at][1])

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone

    async def awaited() -> list[Any]:
        return await asyncio.gather(
            *(lm.agenerate(prompt, **{"max_new_tokens": 300, "seed": 7, **o}) for prompt, o in requests)
        )

    assert [one if isinstance(one, list) else [one] for one in asyncio.run(awaited())] == alone


def test_stop_strings_end_each_alternative_for_itself(lm: gpt2.LanguageModel) -> None:
    done = many(lm, regex="([a-z]{2,8} ){3,12}end", stop=(" ",), n=4)
    assert [c.finish_reason for c in done] == ["stop"] * 4
    assert all(" " not in c.text and len(c.text) >= 2 for c in done)
    assert len({c.text for c in done}) > 1


def test_it_ends_with_the_grammar_or_with_the_tokens(lm: gpt2.LanguageModel) -> None:
    (done,) = many(lm, choice=("the end",))
    assert (done.text, done.finish_reason) == ("the end", "grammar")
    assert list(done.tokens) == lm.tokenizer.encode("the end")
    (cut,) = many(lm, choice=("the end",), max_new_tokens=1)
    assert cut.finish_reason == "length"
    (exact,) = many(lm, choice=("the end",), max_new_tokens=len(done.tokens))
    assert exact.finish_reason == "grammar"
    (none,) = many(lm, choice=("the end",), max_new_tokens=0)
    assert (none.text, none.finish_reason) == ("", "length")


def test_a_wrong_grammar_is_refused_before_the_first_piece(lm: gpt2.LanguageModel) -> None:
    before = lm.stats()
    for options in ({"regex": "(a"}, {"json_schema": {"type": "strin"}}, {"grammar": "start: nobody"}):
        with pytest.raises(InvalidRequest, match=next(iter(options))):
            lm.stream(PROMPT, **options)
    assert lm.stats() == before


def test_beams_and_grammars_contradict_each_other(lm: gpt2.LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="num_beams and regex contradict each other"):
        lm.generate(PROMPT, num_beams=4, regex="a+")


def test_a_model_without_a_tokenizer_says_what_is_missing(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(lm.path / name)
    bare = gpt2.load(tmp_path, threads=1)
    for options in ({"regex": "a"}, {"token_healing": True}):
        with pytest.raises(InvalidRequest, match=f"{next(iter(options))} needs a tokenizer"):
            bare.generate([1, 2], **options)  # type: ignore[arg-type]


def test_a_grammar_is_read_off_the_event_loop(
    lm: gpt2.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take seconds, for which other coroutines must not wait."""
    understood_on: list[threading.Thread] = []
    strategy_for = Structures.strategy_for

    def noting(self: Structures, params: SamplingParams) -> Any:
        understood_on.append(threading.current_thread())
        return strategy_for(self, params)

    monkeypatch.setattr(Structures, "strategy_for", noting)

    async def both() -> tuple[Any, str, int]:
        whole = await lm.agenerate(PROMPT, regex="[ab]{5}", seed=1)
        text = "".join([chunk.text async for chunk in lm.astream(PROMPT, regex="[ab]{5}", seed=1)])
        wrong = 0
        for call in (lm.agenerate(PROMPT, regex="("), anext(lm.astream(PROMPT, regex="("))):
            try:
                await call
            except InvalidRequest:
                wrong += 1
        return whole, text, wrong

    whole, text, wrong = asyncio.run(both())
    assert whole.text == text
    assert wrong == 2
    assert len(understood_on) == 4
    assert threading.current_thread() not in understood_on


# --- token healing ---


@pytest.mark.parametrize("prompt", ["The little gir", "She opened the lett", "Th", "It was 😀", "a  "])
def test_a_healed_text_goes_on_from_the_very_prompt(
    prompt: str, lm: gpt2.LanguageModel, index: TokenIndex
) -> None:
    options: dict[str, Any] = {"token_healing": True, "max_new_tokens": 8, "n": 2, "stop": ("\n\n\n",)}
    ids = lm.tokenizer.encode(prompt)
    kept, rest = heal(index, ids, lm.tokenizer.eos_id)
    params = SamplingParams(max_new_tokens=8, n=2, seed=7)
    ends = frozenset({lm.tokenizer.eos_id or 0})
    tree = FakeTree(params, ends, lm.config.vocab_size, lm.logits)
    truth = run(tree, kept, masked(lambda: Healing(index, rest)))
    streamed = list(lm.stream(prompt, seed=7, **options))
    for done, written in zip(many(lm, prompt, **options), truth, strict=True):
        assert list(done.tokens) == written.tokens[: len(done.tokens)]
        text = lm.tokenizer.decode_bytes(done.tokens, skip_special=True)
        assert text.startswith(rest)
        assert done.text == text[len(rest) :].decode("utf-8", "replace")
        assert done.prompt_tokens == len(kept)
        assert "".join(c.text for c in streamed if c.index == done.index) == done.text


def test_healing_completes_the_word(lm: gpt2.LanguageModel) -> None:
    (healed,) = many(lm, "The old gent", temperature=0.0, token_healing=True, max_new_tokens=4)
    assert healed.text.startswith("leman")
    (plain,) = many(lm, "The old gent", temperature=0.0, max_new_tokens=4)
    assert not plain.text.startswith("leman"), "without it this model goes on otherwise"


# --- suggestions ---


def truth_of_suggestions(
    lm: gpt2.LanguageModel, index: TokenIndex, prefix: str, n: int, count: int
) -> list[tuple[bytes, float]]:
    """(text after the prefix, log-probability) of the n best first tokens, each followed greedily; only for
    prefixes of which one token repeats the rest, so that no two alternatives are the same text."""
    kept, rest = heal(index, lm.tokenizer.encode(prefix), lm.tokenizer.eos_id)
    eos = lm.tokenizer.eos_id

    def logprobs(ids: Sequence[int]) -> Any:
        row = lm.logits(ids)[-1].astype(np.float64)
        return row - np.log(np.exp(row).sum())

    first = logprobs(kept)
    leading = index.towards(rest) if rest else [t for t in range(first.size) if t != eos]
    out = []
    for token in sorted(leading, key=lambda t: (-first[t], t))[:n]:
        tokens, total = [token], first[token]
        while len(tokens) < count and tokens[-1] != eos:
            row = logprobs([*kept, *tokens])
            tokens.append(int(np.argmax(row)))
            total += row[tokens[-1]]
        out.append((lm.tokenizer.decode_bytes(tokens, skip_special=True)[len(rest) :], total))
    return sorted(out, key=lambda pair: -pair[1])


@pytest.mark.parametrize(
    "prefix", ["The little gi", "She opened the", "He said tha", "It was a dark and stormy "]
)
def test_suggestions_are_the_best_first_tokens_followed_greedily(
    prefix: str, lm: gpt2.LanguageModel, index: TokenIndex
) -> None:
    found = lm.suggest(prefix, 4)
    truth = truth_of_suggestions(lm, index, prefix, 4, 5)
    truth = [pair for pair in truth if pair[0]]
    assert [one.text.encode() for one in found[: len(truth)]] == [text for text, _ in truth]
    assert [one.logprob for one in found[: len(truth)]] == pytest.approx([p for _, p in truth], abs=1e-4)
    assert found == sorted(found, key=lambda one: -one.logprob)
    assert lm.suggest(prefix, 4) == found, "the same from the cache"


@pytest.mark.parametrize(
    "prefix", ["", "Th", "The old man went to the", "   \n", "I saw a 😀", "supercalifrag"]
)
@pytest.mark.parametrize("n", [1, 8])
def test_suggestions_are_distinct_and_follow_the_prefix(
    prefix: str, n: int, lm: gpt2.LanguageModel, index: TokenIndex
) -> None:
    found = lm.suggest(prefix, n)
    assert len(found) == n
    assert len({one.text for one in found}) == n
    assert all(one.text and len(one.tokens) <= 5 for one in found)
    for one in found:
        ids = heal(index, lm.tokenizer.encode(prefix), lm.tokenizer.eos_id).kept
        whole = lm.tokenizer.decode_bytes([*ids, *one.tokens], skip_special=True)
        assert whole.startswith(prefix.encode())
        after = whole[len(prefix.encode()) :].decode("utf-8", "replace")
        assert after.startswith(one.text) or "\ufffd" in after


def test_typing_and_deleting_is_as_asking_afresh(lm: gpt2.LanguageModel) -> None:
    """Each request goes on from what the one before left in the engine, and finds what a new model finds."""
    text = "The old man went down to the river, and there he saw a boat which was not his. "
    prefixes = [text[:at] for at in (30, 33, 34, 40, 31, 79, 80, 12, 78)]
    prefixes += ["Another text alt", text[:79], "Another text altogether"]
    fresh = [gpt2.load(threads=1, prefix_cache=False).suggest(prefix, 3) for prefix in prefixes]
    before = lm.stats()
    assert [lm.suggest(prefix, 3) for prefix in prefixes] == fresh
    after = lm.stats()
    computed = after.tokens_computed - before.tokens_computed
    assert computed < sum(len(lm.tokenizer.encode(prefix)) + 3 * 5 for prefix in prefixes)
    assert after.running == after.waiting == 0


def test_suggestions_of_many_threads_are_as_alone(lm: gpt2.LanguageModel) -> None:
    prefixes = ["The little gi", "She opened the", "The little girl sa", "He said tha"] * 3
    alone = [lm.suggest(prefix, 2, salt="alone") for prefix in prefixes]
    together: list[Any] = [None] * len(prefixes)

    def ask(at: int) -> None:
        together[at] = lm.suggest(prefixes[at], 2, salt=str(at % 2))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(prefixes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_prefixes_do_not_keep_others_out(lm: gpt2.LanguageModel) -> None:
    """The blocks of prefixes that stay are taken by whoever needs them; a suggestion then computes anew."""
    window = lm.config.n_positions
    small = gpt2.load(threads=1, cache_bytes=window // 64 * lm.stats().block_bytes)
    found = small.suggest("She opened the", 2)
    assert len(small.generate([5] * (window - 4), max_new_tokens=4, ignore_eos=True, seed=1).tokens) == 4
    assert small.suggest("She opened the", 2) == found


def test_a_prefix_that_does_not_fit(lm: gpt2.LanguageModel) -> None:
    long = " letter" * (lm.config.n_positions + 5)
    with pytest.raises(PromptTooLong):
        lm.suggest(long)
    assert len(lm.suggest(long, 2, truncate="left")) == 2
    with pytest.raises(InvalidRequest, match="n"):
        lm.suggest("a", 0)
