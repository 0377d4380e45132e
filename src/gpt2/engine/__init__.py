"""The Python face of the native engine: load a model; generate, stream, score, embed with it.

numpy in and out; the arithmetic is native (native/engine/engine.h), the text is handled here.
"""

from gpt2.engine.compare import compare_templates
from gpt2.engine.loading import load
from gpt2.engine.model import LanguageModel
from gpt2.engine.session import Session, Turn

__all__ = ["LanguageModel", "Session", "Turn", "compare_templates", "load"]
