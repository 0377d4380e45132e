"""Text to tokens on the disk, and tokens on the disk to batches. No PyTorch, no model.

sources.py   documents out of text files, JSONL, CSV, Parquet, folders, compressed or not
prepare.py   documents -> shards: tokenised, split, without duplicates; can be interrupted and gone on with
shards.py    the form on the disk, mapped and read (docs/formats/tokens.md)
packing.py   documents -> windows of T tokens -> the batch of a step
"""

from gpt2.train.data.packing import Batch, Batches
from gpt2.train.data.prepare import Preparation, Progress, prepare
from gpt2.train.data.shards import Split, Tokens
from gpt2.train.data.sources import Document, find_sources, read

__all__ = [
    "Batch",
    "Batches",
    "Document",
    "Preparation",
    "Progress",
    "Split",
    "Tokens",
    "find_sources",
    "prepare",
    "read",
]
