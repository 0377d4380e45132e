"""What a strategy does beyond its golden tokens: it finds what can be found, ends where it should, streams
only what is certain, draws what was promised, and gives back its branches.

The model is a function from ids to logits over a handful of tokens.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from decoding.test_distribution import chi_square
from decoding.trees import FakeTree, run
from gpt2.decoding import SamplingParams, sampling
from gpt2.decoding.strategies.constrained import Progress
from gpt2.decoding.strategies.dola import contrast, layers_of
from gpt2.decoding.strategies.gumbel import gumbel_noise, uniforms
from gpt2.decoding.strategies.speculation import prompt_lookup
from gpt2.decoding.strategies.table import TABLE, strategy_for
from gpt2.errors import InvalidRequest

V, EOS = 6, 5
PROMPT = [0, 1]


def logits(ids: Sequence[int], salt: int = 0) -> Any:
    """[V] that depend on all ids, as a model's do."""
    seed = zlib.crc32(bytes([salt, *ids]))
    return (np.random.default_rng(seed).normal(size=V) * 1.5).astype(np.float32)


def hidden(ids: Sequence[int]) -> Any:
    return np.stack([np.append(logits(ids[: t + 1], 7), 1.0) for t in range(len(ids))]).astype(np.float32)


def tree(window: int = 10**9, ends: frozenset[int] = frozenset({EOS}), **options: Any) -> FakeTree:
    params = SamplingParams(**{"max_new_tokens": 5, **options})
    early = {"hidden": hidden, "layer": lambda ids, k: logits(ids, k + 1)}
    return FakeTree(params, ends, V, lambda ids: logits(ids)[None], text=bytes, window=window, **early)


ALL: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "n": 2},
    "sampled beams": {"num_beams": 3, "n": 2, "do_sample": True, "seed": 1},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "n": 2},
    "constrained": {"num_beams": 3, "force_words_ids": [[0, 4], [[1, 0], [4, 4]]], "n": 2},
    "contrastive": {"penalty_alpha": 0.4, "top_k": 3},
    "dola": {"dola_layers": (0, 2), "n": 2, "seed": 1},
    "guidance": {"guidance_scale": 2.0, "n": 2, "seed": 1},
    "best_of": {"best_of": 4, "n": 2, "seed": 1},
}


def test_every_strategy_of_the_table_is_tested() -> None:
    here = {strategy_for(SamplingParams(**options)) for options in ALL.values()}
    assert here | {prompt_lookup} == {make for _, make in TABLE}  # that one has tests of its own
    assert strategy_for(SamplingParams()) is None
    assert strategy_for(SamplingParams(guidance_scale=1.0, penalty_alpha=0.0)) is None


def log_probability(tokens: Sequence[int]) -> float:
    total = 0.0
    for at, token in enumerate(tokens):
        total += float(sampling.log_softmax(logits([*PROMPT, *tokens[:at]]))[token])
    return total


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
def test_enough_beams_find_the_best_text_of_all(length_penalty: float) -> None:
    """Every text of up to 3 tokens, tried one by one."""
    texts = []
    for length in range(1, 4):
        for text in itertools.product(range(V), repeat=length):
            if EOS not in text[:-1] and (text[-1] == EOS or length == 3):
                texts.append((log_probability(text) / length**length_penalty, list(text)))
    texts.sort(reverse=True)
    found = run(
        tree(num_beams=150, n=3, max_new_tokens=3, length_penalty=length_penalty, early_stopping="never"),
        PROMPT,
    )
    assert [text.tokens for text in found] == [tokens for _, tokens in texts[:3]]
    np.testing.assert_allclose([text.score for text in found], [score for score, _ in texts[:3]], atol=1e-5)
    assert [text.finish for text in found] == [("eos" if t[-1] == EOS else "length") for _, t in texts[:3]]


@pytest.mark.parametrize("name", ALL)
def test_ends(name: str) -> None:
    whole = run(tree(ends=frozenset(), max_new_tokens=9, **ALL[name]), PROMPT)
    assert {text.finish for text in whole} == {"length"}
    assert {len(text.tokens) for text in whole} == {9}
    for ends, stops, finish in ((frozenset({2, 3}), (), "eos"), (frozenset(), (2, 3), "stop")):
        for text in run(tree(ends=ends, stop_token_ids=stops, max_new_tokens=30, **ALL[name]), PROMPT):
            assert text.finish == (finish if text.tokens[-1] in (2, 3) else "length")
            assert not {2, 3} & set(text.tokens[:-1])
            assert text.finish == finish or len(text.tokens) == 30
    for text in run(tree(ends=frozenset({2, 3}), min_new_tokens=4, max_new_tokens=30, **ALL[name]), PROMPT):
        assert len(text.tokens) > 4


@pytest.mark.parametrize("name", ALL)
def test_stop_strings(name: str) -> None:
    texts = run(tree(ends=frozenset(), stop=("\x02", "\x03\x01"), max_new_tokens=40, **ALL[name]), PROMPT)
    for text in texts:
        found = [at for at in range(41) if b"\x02" in (cut := bytes(text.tokens[:at])) or b"\x03\x01" in cut]
        assert text.finish == ("stop" if found else "length")
        assert len(text.tokens) == (found[0] if found else 40)


@pytest.mark.parametrize("name", ALL)
def test_a_full_window_ends_the_text(name: str) -> None:
    texts = run(tree(window=6, ends=frozenset(), max_new_tokens=30, **ALL[name]), PROMPT)
    assert {text.finish for text in texts} == {"context"}
    # The token after the last one that fits is chosen, too, unless it must be computed to be chosen.
    assert {len(text.tokens) for text in texts} == {4 if name == "contrastive" else 5}


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_sampled_beams_keep_a_way_to_go_on(filters: dict[str, Any]) -> None:
    """A filter that leaves one token leaves two here: the end of the text and another."""
    for seed in range(20):
        options = {"num_beams": 3, "n": 3, "do_sample": True, "seed": seed, "max_new_tokens": 6, **filters}
        texts = run(tree(**options), PROMPT)
        assert len({tuple(text.tokens) for text in texts}) == 3
        for text in texts:
            for at, token in enumerate(text.tokens):
                best = np.argsort(-logits([*PROMPT, *text.tokens[:at]]), kind="stable")
                assert token in best[:2]


@pytest.mark.parametrize("name", ALL)
def test_log_probabilities_are_the_models(name: str) -> None:
    bare = run(tree(repetition_penalty=1.3, **ALL[name]), PROMPT)
    texts = run(tree(repetition_penalty=1.3, logprobs=2, **ALL[name]), PROMPT)
    assert [text.tokens for text in texts] == [text.tokens for text in bare]
    for text in texts:
        assert len(text.logprobs) == len(text.tokens)
        assert math.isclose(sum(text.logprobs), log_probability(text.tokens), abs_tol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_same_again_and_whatever_n_is(name: str) -> None:
    options = ALL[name]
    once = [text.tokens for text in run(tree(**options), PROMPT)]
    assert [text.tokens for text in run(tree(**options), PROMPT)] == once
    if name != "constrained":  # there texts without all words are taken in only where n asks for more
        assert [text.tokens for text in run(tree(**{**options, "n": 1}), PROMPT)] == once[:1]


def test_beams_tell_early_what_is_certain() -> None:
    """One path is far better than all others, so that it is told on the way."""

    def sure(ids: Sequence[int]) -> Any:
        return ((20.0 - len(ids)) * (np.arange(V) == len(ids) % 3)).astype(np.float32)[None]

    params = SamplingParams(num_beams=3, n=2, max_new_tokens=8)
    texts = run(FakeTree(params, frozenset(), V, sure), [1])
    assert texts[0].pieces > 3
    assert texts[0].tokens == [(1 + k) % 3 for k in range(8)]


def test_best_of_returns_the_alternatives_with_the_best_mean() -> None:
    options: dict[str, Any] = {"seed": 5, "temperature": 1.3, "max_new_tokens": 7}
    every = run(tree(best_of=6, n=6, **options), PROMPT)
    means = [log_probability(text.tokens) / len(text.tokens) for text in every]
    np.testing.assert_allclose([text.score for text in every], means, atol=1e-5)
    assert means == sorted(means, reverse=True)
    drawn = []
    for alternative in range(6):
        tokens: list[int] = []
        while len(tokens) < 7 and EOS not in tokens:
            history = [*PROMPT, *tokens]
            params = SamplingParams(**options)
            tokens.append(
                sampling.next_token(
                    logits(history), params, history=history, generated=len(tokens), alternative=alternative
                )
            )
        drawn.append(tokens)
    assert sorted(text.tokens for text in every) == sorted(drawn)
    assert [text.tokens for text in run(tree(best_of=6, n=2, **options), PROMPT)] == [
        text.tokens for text in every[:2]
    ]


def test_a_strategy_extends_no_more_than_it_must() -> None:
    t = tree(ends=frozenset(), num_beams=3, max_new_tokens=6)
    run(t, PROMPT)
    assert t.extended == 1 + 3 * 5
    t = tree(ends=frozenset(), max_new_tokens=6, guidance_scale=2.0, n=3)
    run(t, PROMPT)
    assert t.extended == 2 + 2 * 3 * 5, "the prompts are computed once for all alternatives"
    t = tree(ends=frozenset(), num_beams=4, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=6)
    run(t, PROMPT)
    assert t.extended == 1 + 4 * 5


def test_words_are_there() -> None:
    """Every pair of tokens as a phrase. It is no certainty: a text with its words may be crowded out."""
    found = 0
    for word in itertools.product(range(V), repeat=2):
        options = {"num_beams": 4, "force_words_ids": [list(word)], "max_new_tokens": 8}
        (text,) = run(tree(ends=frozenset(), **options), PROMPT)
        found += bytes(word) in bytes([*PROMPT, *text.tokens])
    assert found >= 0.9 * V * V


def test_a_word_cannot_hold_what_ends_the_text() -> None:
    with pytest.raises(InvalidRequest, match=r"force_words_ids and the tokens that end"):
        run(tree(num_beams=2, force_words_ids=[[2, EOS]]), PROMPT)


def test_progress_through_words() -> None:
    words = (((1, 2, 3),), ((4,), (5, 6)))
    state = Progress.of(words, [])
    assert state.helpful() == [1, 4, 5]
    assert Progress.of(words, [1, 2]).helpful() == [3]
    assert Progress.of(words, [1, 2]).bank(3) == 2
    assert Progress.of(words, [1, 2, 1]).helpful() == [4, 5, 1], "broken off: it begins again, last in turn"
    assert Progress.of(words, [4]).bank(3) == 3
    assert not Progress.of(words, [1, 2, 3, 5]).fulfilled
    assert Progress.of(words, [1, 2, 3, 5, 6]).fulfilled
    assert Progress.of(words, [5, 6, 0, 1, 2, 3, 1]).fulfilled, "once it is, it stays so"


@pytest.mark.parametrize(
    ("which", "n_layer", "layers"),
    [
        ("low", 1, (0,)), ("low", 2, (1,)), ("low", 5, (2,)), ("low", 12, (2, 4)), ("high", 12, (6, 8, 10)),
        ("low", 48, tuple(range(2, 20, 2))), ("high", 48, tuple(range(28, 48, 2))), ((0, 3), 5, (0, 3)),
    ],
)  # fmt: skip
def test_layers_of_dola(which: Any, n_layer: int, layers: tuple[int, ...]) -> None:
    assert layers_of(which, n_layer) == layers


@pytest.mark.parametrize(("which", "n_layer"), [("low", 3), ((5,), 5), ((1, 9), 5)])
def test_layers_that_a_model_lacks(which: Any, n_layer: int) -> None:
    with pytest.raises(InvalidRequest, match="dola_layers"):
        layers_of(which, n_layer)


def test_contrast_bans_the_improbable_and_takes_the_farthest_layer() -> None:
    last = np.log(np.array([0.6, 0.3, 0.04, 0.05, 0.01], dtype=np.float32))
    near, far = last + np.float32(0.01), np.log(np.array([0.1, 0.6, 0.01, 0.2, 0.09], dtype=np.float32))
    scores = contrast(last, np.stack([near, far]))
    np.testing.assert_allclose(scores[:2], np.log([0.6 / 0.1, 0.3 / 0.6]), atol=1e-5)
    assert (scores[2:] < -9000).all()
    assert scores[2:].argmax() == 1  # where the others are banned: the most probable, not the most contrasted


# Draws without replacement.


def test_noise_depends_on_its_four_alone() -> None:
    tokens = np.array([0, 3, 4, 5, 99])
    u = uniforms(2**40 + 7, 3, 1, tokens)
    assert ((u > 0) & (u < 1)).all()
    for at, token in enumerate(tokens):
        assert uniforms(2**40 + 7, 3, 1, np.array([token]))[0] == u[at]
    others = [(8, 3, 1), (2**40 + 7, 4, 1), (2**40 + 7, 3, 2)]
    every = np.concatenate([u, *(uniforms(*other, tokens) for other in others)])
    assert len(set(every)) == len(every)


def test_the_largest_of_noisy_scores_are_drawn_without_replacement() -> None:
    """100,000 draws of two tokens out of 5: the pairs have the probabilities p(a) p(b) / (1 - p(a))."""
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    noise = gumbel_noise(20261121, 0, 0, np.arange(500_000)).reshape(-1, 5)
    order = np.argsort(-(np.log(p) + noise), axis=1)[:, :2]
    observed = np.bincount(order[:, 0] * 5 + order[:, 1], minlength=25).reshape(5, 5)
    assert not observed.diagonal().any()
    expected = p[:, None] * p[None] / (1 - p[:, None])
    off = ~np.eye(5, dtype=bool)
    statistic, limit = chi_square(observed[off], expected[off])
    assert statistic < limit


def test_beam_sampling_draws_from_the_texts_probabilities() -> None:
    """The first of two beams' one token, over 500 seeds; the better of two that are drawn is returned."""
    z = logits(PROMPT).astype(np.float64) / 0.8
    p = np.exp(z - z.max())
    p /= p.sum()
    pairs = p[:, None] * p[None] / (1 - p[:, None]) * ~np.eye(V, dtype=bool)
    best = np.argsort(np.argsort(p))
    expected = np.zeros(V)
    for a, b in itertools.product(range(V), repeat=2):
        expected[a if best[a] > best[b] else b] += pairs[a, b]
    observed = np.zeros(V, dtype=int)
    for seed in range(500):
        options = {"num_beams": 2, "do_sample": True, "temperature": 0.8, "max_new_tokens": 1}
        (text,) = run(tree(seed=seed, **options), PROMPT)
        observed[text.tokens[0]] += 1
    statistic, limit = chi_square(observed, expected)
    assert statistic < limit
