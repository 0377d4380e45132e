"""What else a model answers: scores, next tokens, embeddings, hidden states; from several threads, and
interrupted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gpt2
from gpt2 import errors


@pytest.fixture(scope="module")
def lm(tiny_checkpoint: Path) -> gpt2.LanguageModel:
    return gpt2.load(tiny_checkpoint)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_score_is_the_log_probability_of_each_token(lm: gpt2.LanguageModel) -> None:
    text = "the sand and the \u00e9"
    ids = lm.tokenizer.encode(text)
    score = lm.score(text)
    expected = log_softmax(lm.logits([lm.tokenizer.eos_id, *ids]))[np.arange(len(ids)), ids]
    assert list(score.tokens) == ids
    assert score.logprobs == pytest.approx(expected.tolist(), abs=2e-6)
    assert score.total == pytest.approx(math.fsum(expected), abs=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-4)
    assert score.bits_per_byte == pytest.approx(-expected.sum() / math.log(2) / len(text.encode()), rel=1e-4)
    assert lm.score(ids).bits_per_byte == score.bits_per_byte


def test_a_long_text_is_scored_in_windows_only_when_asked(lm: gpt2.LanguageModel) -> None:
    ids = [i % 200 for i in range(1, 151)]
    with pytest.raises(errors.PromptTooLong, match="150 tokens"):
        lm.score(ids)
    score = lm.score(ids, stride=20)
    start = [lm.tokenizer.eos_id, *ids]
    expected = log_softmax(lm.logits(start[:64]))[np.arange(64), start[1:65]].tolist()
    begin = 20
    while len(expected) < 150:
        window = start[begin : begin + 64]
        targets = start[begin + 1 : begin + 65]
        rows = log_softmax(lm.logits(window))[np.arange(len(targets)), targets]
        expected += rows[len(expected) - begin :].tolist()
        begin += 20
    assert score.logprobs == pytest.approx(expected, abs=2e-6)


def test_an_empty_text_has_no_tokens_to_score(lm: gpt2.LanguageModel) -> None:
    assert lm.score("") == gpt2.Score(
        tokens=(), texts=(), logprobs=(), total=0.0, perplexity=1.0, bits_per_byte=0.0
    )


def test_next_tokens_are_the_best_of_the_distribution(lm: gpt2.LanguageModel) -> None:
    logprobs = log_softmax(lm.logits(lm.tokenizer.encode("the s"))[-1])
    got = lm.next_tokens("the s", n=7)
    assert [t.id for t in got] == np.argsort(-logprobs, kind="stable")[:7].tolist()
    assert [t.logprob for t in got] == pytest.approx(np.sort(logprobs)[::-1][:7].tolist(), abs=1e-6)
    everything = lm.next_tokens("the s", n=10**6)
    assert len(everything) == lm.config.vocab_size
    assert math.fsum(t.probability for t in everything) == pytest.approx(1.0, abs=1e-9)
    chosen = lm.generate("the s", temperature=0, max_new_tokens=1, logprobs=3)
    assert chosen.top_logprobs[0][0][0] == got[0].id  # type: ignore[union-attr,index]
    assert chosen.logprobs[0] == pytest.approx(got[0].logprob, abs=2e-6)  # type: ignore[union-attr,index]


def test_embeddings_pool_the_hidden_states(lm: gpt2.LanguageModel) -> None:
    texts = ["the sand", "", "a"]
    for layer in (-1, 0, 1):
        for text, row in zip(texts, lm.embed(texts, layer=layer), strict=True):
            ids = lm.tokenizer.encode(text) or [lm.tokenizer.eos_id]
            states = lm.hidden_states(ids)[layer].astype(np.float64)
            assert row == pytest.approx(states.mean(0), abs=1e-5)
            assert np.array_equal(lm.embed(text, layer, "last")[0], lm.hidden_states(ids)[layer, -1])
            weights = np.arange(1, len(ids) + 1) / (len(ids) * (len(ids) + 1) / 2)
            assert lm.embed(text, layer, "weighted")[0] == pytest.approx(weights @ states, abs=1e-5)
    assert lm.embed([]).shape == (0, lm.config.n_embd)


def test_wrong_arguments(lm: gpt2.LanguageModel) -> None:
    with pytest.raises(errors.InvalidRequest, match="pooling"):
        lm.embed("a", pooling="max")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="layer"):
        lm.embed("a", layer=3)
    with pytest.raises(errors.InvalidRequest, match="first"):
        lm.logits([1, 2], first=2)
    with pytest.raises(errors.InvalidRequest, match="token ids"):
        lm.logits("text")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="at least one"):
        lm.logits([])
    with pytest.raises(errors.PromptTooLong):
        lm.hidden_states([1] * 65)
    with pytest.raises(errors.InvalidRequest, match="n: got 0"):
        lm.next_tokens("a", n=0)
    with pytest.raises(errors.InvalidRequest, match="stride"):
        lm.score("a", stride=65)


def test_threads_of_python_share_a_model(lm: gpt2.LanguageModel) -> None:
    expected = [lm.generate("the", seed=seed, max_new_tokens=30) for seed in range(8)]
    got: list[object] = [None] * 8

    def work(seed: int) -> None:
        got[seed] = lm.generate("the", seed=seed, max_new_tokens=30)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert got == expected


LONG = """
import sys, gpt2
lm = gpt2.load(sys.argv[1])
print("ready", flush=True)
lm.generate("the", max_new_tokens=10**6, overflow="slide", ignore_eos=True)
"""


def test_ctrl_c_stops_a_generation_at_once(tiny_checkpoint: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(tiny_checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in stderr
    assert time.monotonic() - sent < 10  # seconds; a generous bound for a busy machine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_after_a_fork_the_engine_says_so_and_does_not_hang(tiny_checkpoint: Path) -> None:
    program = """
import os, sys, gpt2
lm = gpt2.load(sys.argv[1], threads=2)
lm.logits([1, 2, 3])
if (child := os.fork()) == 0:
    try:
        lm.logits([1, 2, 3])
    except gpt2.Error as error:
        os._exit(7 if "fork" in str(error) else 8)
    os._exit(9)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_checkpoint)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "7\n"
