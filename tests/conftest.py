"""Options and fixtures that every room's tests share.

`--slow` runs what takes minutes. A test with an argument `isa` runs once for each instruction set of this
machine. What needs `../shared` (data beside the project, never copied in) skips where that is absent.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from machine import SHARED, isas, need, small_vocabulary

# A shell's background job starts with SIGINT ignored, and so would each program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines in CI are noisy: a deadline would measure the neighbours. There the examples are also fixed.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("GPT2_REQUIRE_ALL") else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen_by_the_test = any(
        "isa" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")
    )
    if "isa" in metafunc.fixturenames and not chosen_by_the_test:
        metafunc.parametrize("isa", isas())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data beside the project; skips where it is absent, as it is in a user's clone."""
    if not SHARED.is_dir():
        pytest.skip("needs the data folder ../shared/data, which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def real_vocab(shared_data: Path) -> Path:
    """A folder with the real GPT-2 vocabulary: encoder.json (50,257 entries) and vocab.bpe."""
    folder = shared_data / "tokenizer"
    if not (folder / "encoder.json").is_file():
        pytest.skip("needs ../shared/data/tokenizer/encoder.json")
    return folder


def write_vocabulary(folder: Path) -> int:
    """Write vocab.json and merges.txt of machine.small_vocabulary(); returns the number of entries."""
    vocab, merges = small_vocabulary()
    folder.joinpath("vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    folder.joinpath("merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(vocab)


@pytest.fixture(scope="session")
def small_vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vocab.json and merges.txt of a small byte-level BPE that needs no file from outside."""
    folder = tmp_path_factory.mktemp("small-vocab")
    write_vocabulary(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as transformers saves it: random weights, L=2, H=3, C=48, T<=64, V=269."""
    try:
        import torch
        import transformers
    except ImportError:
        need(False, "torch and transformers are not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    vocab_size = write_vocabulary(folder)
    torch.manual_seed(20190214)
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=64,
        n_embd=48,
        n_layer=2,
        n_head=3,
        bos_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 1,
        initializer_range=0.3,  # wide enough that the logits differ by more than rounding
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
