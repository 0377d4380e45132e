"""Byte-level BPE as GPT-2 has it: text to token ids and back, without loss.

    from gpt2.tokenizer import Tokenizer

    tokenizer = Tokenizer.load("path/to/model")
    ids = tokenizer.encode("Hello, world")
    assert tokenizer.decode(ids) == "Hello, world"

The work is native (native/tokenizer); here are the files, the arguments and the length policies. Knows
nothing of models.
"""

from gpt2.tokenizer.lengths import Truncated, Window, truncate, windows
from gpt2.tokenizer.tokenizer import StreamDecoder, Tokenizer, utf8_prefix

__all__ = ["StreamDecoder", "Tokenizer", "Truncated", "Window", "truncate", "utf8_prefix", "windows"]
