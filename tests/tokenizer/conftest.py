"""A vocabulary of our own, learnt from text that is made here, so that these tests need no file from
outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.tokenizer import Tokenizer
from tokenizer.strings import hard_strings


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(hard_strings(20_000, seed=100)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(corpus: Path) -> Tokenizer:
    return Tokenizer.train([corpus], 3000)
