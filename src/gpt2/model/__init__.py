"""The PyTorch GPT-2: the model as one reads it in a paper, for training and for looking inside.

PyTorch lives here and in gpt2.train; install it with `pip install "gpt2[train]"`. The engine (gpt2.engine)
computes the same function without it.
"""

from gpt2.model.files import load_model
from gpt2.model.gpt2 import GPT2, Hook

__all__ = ["GPT2", "Hook", "load_model"]
