"""Whatever a strategy does with its branches, an answer is that of a fresh computation, to the bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from checkpoints import random_gpt2, saved
from gpt2 import SamplingParams, _native
from gpt2.decoding.tree import Answer, Ask, Emit, Extend, MakeStrategy, Strategy, Tree, Wait
from gpt2.engine.generation import Generation
from gpt2.engine.native_params import native_params

V, C, L, WINDOW = 151, 44, 3, 140


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_gpt2(
        n_embd=C, n_head=4, n_layer=L, n_positions=WINDOW, vocab_size=V, initializer_range=0.3
    )
    return saved(model, tmp_path_factory.mktemp("branches"))


@pytest.fixture(scope="module")
def lm(folder: Path) -> gpt2.LanguageModel:
    return gpt2.load(folder, threads=1)


@pytest.fixture(scope="module")
def block(lm: gpt2.LanguageModel) -> int:
    return lm.stats().block_bytes


def generation(
    lm: gpt2.LanguageModel, params: SamplingParams, strategy: MakeStrategy | None, **how: Any
) -> Generation:
    seed = params.seed if params.seed is not None else 0
    return Generation(lm._native, lm.config, None, params, seed, strategy=strategy, **how)


def completions(generation: Generation, prompts: Sequence[Sequence[int]]) -> dict[Any, gpt2.Completion]:
    encoded = [(np.asarray(prompt, dtype=np.int32), None) for prompt in prompts]
    chunks = list(generation.run(encoded))
    return {(at, c.index): c.completion for at, c in chunks if c.completion is not None}


def driven(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    """What the engine does by itself, one branch for each alternative."""
    branches = {k: tree.open(alternative=k) for k in range(params.n)}
    tokens = {k: list(prompt) for k in branches}
    made = dict.fromkeys(branches, 0)
    while branches:
        answers = yield Wait([Extend(branches[k], tokens[k], Ask("choices")) for k in branches])
        assert answers is not None
        for k, answer in zip(list(branches), answers, strict=True):
            if answer.full:
                yield Emit(tokens=(), alternative=k, finish="context")
                del branches[k]
                continue
            (choice,) = answer.choices
            tokens[k] = [choice.token]
            made[k] += 1
            done = choice.token in ends or made[k] == params.max_new_tokens
            finish: Any = ("eos" if choice.token in ends else "length") if done else None
            yield Emit(
                tokens=tokens[k],
                logprobs=[choice.logprob],
                top=[choice.top],
                alternative=k,
                finish=finish,
            )
            if done:
                branches.pop(k).drop()


lengths = st.one_of(st.sampled_from([1, 5, 63, 64, 65, 127, 128, 129, WINDOW]), st.integers(1, WINDOW))


def tokens(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, V, length).tolist()  # type: ignore[no-any-return]


prompts = st.builds(tokens, lengths, st.integers(0, 2))
options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "top_k": st.sampled_from([0, 5]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "no_repeat_ngram_size": st.sampled_from([0, 3]),
        "seed": st.integers(0, 2**64 - 1),
        "logprobs": st.sampled_from([None, 0, 2]),
        "n": st.integers(1, 3),
        "max_new_tokens": st.integers(1, 12),
        "overflow": st.sampled_from(["stop", "slide"]),
    }
)


@given(
    st.lists(prompts, min_size=1, max_size=5), options, st.sampled_from([(1, 6), (7, 5), (64, 12), (256, 64)])
)
@settings(max_examples=20)
def test_driven_is_plain(folder: Path, lm: Any, block: int, mix: Any, how: Any, way: tuple[int, int]) -> None:
    rows, blocks = way
    params = SamplingParams(**how)
    expected = completions(generation(lm, params, None), mix)
    small = gpt2.load(folder, threads=2, step_tokens=rows, cache_bytes=blocks * block)
    assert completions(generation(small, params, driven), mix) == expected
    assert small.stats().blocks_used == 0
    assert small.stats().waiting + small.stats().running == 0


class Fresh:
    """What an answer must be, from the tokens of the branch alone."""

    def __init__(self, lm: gpt2.LanguageModel, params: SamplingParams) -> None:
        self.lm = lm
        self.params = params
        self.native = native_params(params, params.seed or 0, frozenset())
        self.sampler = _native.Sampler(V)

    def logits(self, ids: list[int]) -> Any:
        return self.lm.logits(ids)

    def choice(self, logits: Any, ids: list[int], prompt: int, alternative: int, mask: Any = None) -> Any:
        return self.sampler.next(
            logits, self.native, np.asarray(ids, np.int32), max(0, len(ids) - prompt), alternative, mask=mask
        )


def check(fresh: Fresh, ids: list[int], prompt: int, alternative: int, ask: Ask, answer: Answer) -> None:
    full = fresh.logits(ids)
    rows = min(ask.rows, len(ids))
    if ask.kind == "logits":
        assert np.array_equal(answer.logits, full[-rows:])
    elif ask.kind == "candidates":
        scores = fresh.sampler.candidates(
            full[-1], fresh.native, np.asarray(ids, np.int32), ask.count, max(0, len(ids) - prompt),
            mask=ask.mask, normalise=ask.normalise,
        )  # fmt: skip
        assert answer.ids is not None
        assert answer.scores is not None
        assert list(zip(answer.ids.tolist(), answer.scores.tolist(), strict=True)) == scores
    elif not ask.drafts:
        token, logprob, top = fresh.choice(full[-1], ids, prompt, alternative, ask.mask)
        assert answer.choices == (gpt2.decoding.tree.Choice(token, logprob, tuple(top)),)
    if ask.hidden:
        assert np.array_equal(answer.hidden, fresh.lm.hidden_states(ids)[-1][-rows:])
    assert (answer.layers is None) == (not ask.layers)
    if ask.layers:
        assert answer.layers is not None
        assert answer.layers.shape == (len(ask.layers), rows, V)


class Wanderer:
    """Extends, forks, rewinds and drops branches as the dice say, and checks each answer."""

    def __init__(self, fresh: Fresh, dice: random.Random, rounds: int) -> None:
        self.fresh = fresh
        self.dice = dice
        self.rounds = rounds
        self.answers = self.full = 0

    def __call__(self, tree: Any, prompt: Any, params: SamplingParams, ends: frozenset[int]) -> Strategy:
        known: dict[Any, tuple[list[int], int, int]] = {}  # branch -> its tokens, those of the prompt, draws
        for _ in range(self.rounds):
            for branch in list(known):
                self.change(known, branch)
            if not known or (len(known) < 4 and self.dice.random() < 0.3):
                draw = self.dice.randint(0, 3)
                known[tree.open(alternative=draw)] = ([], 0, draw)
            extensions = {
                branch: self.extension(*known[branch]) for branch in known if self.dice.random() < 0.7
            }
            answers = yield Wait([Extend(branch, new, ask) for branch, (new, ask) in extensions.items()])
            assert answers is not None
            for (branch, (new, ask)), answer in zip(extensions.items(), answers, strict=True):
                ids, begin, draw = known[branch]
                if len(ids) + len(new) > WINDOW:
                    self.full += 1
                    assert answer == Answer(full=True)
                    continue
                self.answers += 1
                known[branch] = (ids + new, begin or len(new), draw)
                assert branch.length == len(ids) + len(new)
                check(self.fresh, *known[branch], ask, answer)
        yield Emit(tokens=[1], finish="length")

    def change(self, known: Any, branch: Any) -> None:
        ids, begin, draw = known[branch]
        what = self.dice.random()
        if what < 0.15 and len(known) < 6:
            other = draw if self.dice.random() < 0.5 else self.dice.randint(0, 3)
            known[branch.fork(alternative=other)] = (list(ids), begin, other)
        elif what < 0.4 and ids:
            keep = self.dice.randint(0, len(ids))
            branch.rewind(keep)
            known[branch] = (ids[:keep], begin, draw)
        elif what < 0.45:
            branch.drop()
            del known[branch]

    def extension(self, ids: list[int], begin: int, draw: int) -> tuple[list[int], Ask]:
        choice = self.dice.choice
        source = tokens(WINDOW, self.dice.randint(0, 1))
        count = choice([1, 1, 2, 9, 63, 64, 65, 130])
        kind: Any = choice(["choices", "candidates", "logits"])
        mask = None
        if kind != "logits" and self.dice.random() < 0.3:
            mask = np.array([self.dice.getrandbits(32) | 1 for _ in range((V + 31) // 32)], dtype=np.uint32)
        return [source[(len(ids) + i) % WINDOW] for i in range(count)], Ask(
            kind,
            rows=choice([1, 1, 2, count, 1000]),
            count=choice([1, 5, V]),
            normalise=self.dice.random() < 0.5,
            mask=mask,
            hidden=self.dice.random() < 0.3,
            layers=choice([(), (), (0,), (L, 1), (2, 2)]),
        )


def test_branches_forked_and_rewound_answer_as_fresh_ones(folder: Path, lm: Any, block: int) -> None:
    answers = full = preemptions = hits = 0
    for seed in range(8):
        dice = random.Random(seed)
        params = SamplingParams(seed=seed, top_k=20, repetition_penalty=1.2, max_new_tokens=30, logprobs=1)
        rows, blocks = dice.choice([(1, 30), (16, 4), (64, 3), (256, 40), (256, 8)])
        small = gpt2.load(folder, threads=2, step_tokens=rows, cache_bytes=blocks * block)
        wanderer = Wanderer(Fresh(lm, params), dice, 12)
        company = generation(small, params, None).run([(np.asarray(tokens(70, 1), np.int32), None)] * 3)
        next(company)
        completions(generation(small, params, wanderer), [[1], [2]])
        assert len(list(company)) > 50
        stats = small.stats()
        assert (stats.blocks_used, stats.waiting, stats.running) == (0, 0, 0)
        answers, full = answers + wanderer.answers, full + wanderer.full
        preemptions, hits = preemptions + stats.preemptions, hits + stats.prefix_hit_tokens
    assert answers > 100
    assert full > 5
    assert preemptions > 10
    assert hits > 1000
