"""gpt2: run, measure and explain language models of the GPT-2 architecture.

    import gpt2

    lm = gpt2.load()                                  # the bundled model; or a directory, or a hub id
    print(lm.generate("Once upon a time", seed=1).text)

The names below are loaded when they are first used (PEP 562), so that `import gpt2` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.config import GPT2Config
    from gpt2.decoding import SamplingParams, Template
    from gpt2.engine import LanguageModel, Session, Turn, compare_templates, load
    from gpt2.errors import Error
    from gpt2.protocols import Chunk, Completion, NextToken, Score, Suggestion
    from gpt2.tokenizer import Tokenizer
    from gpt2.weights import open_weights

__version__ = "0.1.0"

_HOME = {
    "Chunk": "gpt2.protocols",
    "Completion": "gpt2.protocols",
    "Error": "gpt2.errors",
    "GPT2Config": "gpt2.config",
    "LanguageModel": "gpt2.engine",
    "NextToken": "gpt2.protocols",
    "SamplingParams": "gpt2.decoding",
    "Score": "gpt2.protocols",
    "Session": "gpt2.engine",
    "Suggestion": "gpt2.protocols",
    "Template": "gpt2.decoding",
    "Tokenizer": "gpt2.tokenizer",
    "Turn": "gpt2.engine",
    "compare_templates": "gpt2.engine",
    "load": "gpt2.engine",
    "open_weights": "gpt2.weights",
}

__all__ = [
    "Chunk",
    "Completion",
    "Error",
    "GPT2Config",
    "LanguageModel",
    "NextToken",
    "SamplingParams",
    "Score",
    "Session",
    "Suggestion",
    "Template",
    "Tokenizer",
    "Turn",
    "__version__",
    "compare_templates",
    "load",
    "open_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gpt2' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
