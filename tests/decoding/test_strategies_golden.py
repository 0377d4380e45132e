"""Every strategy gives the tokens, and beams the scores, of the release of transformers that has it.

The goldens are made by tests/golden/make_strategies.py with the bundled model: at least 50 prompts for each
strategy, each with one of several sets of options. Here some of them run on the slow tree of trees.py, so
that it stays a true double; all of them run in the engine (tests/engine/test_strategies.py).
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

import gpt2
from decoding.trees import FakeTree, run
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.dola import layers_of
from machine import ROOT

GOLDEN = ROOT / "tests" / "golden"
MADE = {major: json.loads((GOLDEN / f"strategies_{major}.json").read_text()) for major in (4, 5)}
ALL_BANNED = """no_repeat_ngram_size bans all tokens that DoLa keeps: all scores of transformers are -inf, of
which it takes id 0; we take the most probable of the tokens that are not banned"""
APART = {("dola", (3164, 258, 3519)): ALL_BANNED}
"""Cases that are not to be as in transformers, and why."""

RECORDS = [
    record
    for made in MADE.values()
    for record in made["records"]
    if (record["strategy"], tuple(record["prompt"])) not in APART
]
SLOWLY = 7  # one of most sets of options
STRATEGIES = ["beams", "guidance", "diverse", "constrained", "contrastive", "dola"]


@pytest.fixture(scope="module")
def lm() -> Any:
    return gpt2.load()


@pytest.fixture(scope="module")
def head(lm: Any) -> Any:
    """[V, C]"""
    weights = gpt2.open_weights(lm.path, lm.config)
    return weights["wte.weight"].to_float32()


def tree_of(lm: Any, head: Any, params: SamplingParams) -> FakeTree:
    return FakeTree(
        params,
        frozenset(),
        lm.config.vocab_size,
        lambda ids: lm.logits(ids, first=len(ids) - 1),
        hidden=lambda ids: lm.hidden_states(ids)[-1],
        layer=lambda ids, k: head @ lm.hidden_states(ids)[k][-1],
        window=lm.config.n_positions,
    )


def test_there_are_50_prompts_of_each() -> None:
    prompts = Counter(strategy for strategy, _ in {(r["strategy"], tuple(r["prompt"])) for r in RECORDS})
    assert set(prompts) == set(STRATEGIES)
    assert min(prompts.values()) >= 50, prompts


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tokens_and_scores(strategy: str, lm: Any, head: Any) -> None:
    wrong = []
    for record in [r for r in RECORDS if r["strategy"] == strategy][:SLOWLY]:
        params = SamplingParams(**record["options"])
        if params.dola_layers is not None:
            params = params.replace(dola_layers=layers_of(params.dola_layers, lm.config.n_layer))
        texts = run(tree_of(lm, head, params), record["prompt"])
        if [text.tokens for text in texts] != record["tokens"]:
            wrong.append((record, [text.tokens for text in texts]))
        elif "scores" in record:
            np.testing.assert_allclose([t.score for t in texts], record["scores"], rtol=0, atol=1e-4)
    assert not wrong, f"{len(wrong)} differ; the first: {wrong[0]}"
