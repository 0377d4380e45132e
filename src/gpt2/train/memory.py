"""Memory of a step: what is freed stays with the process, and compiled code keeps little for the way back.

A step of training allocates and frees the same large arrays each time. malloc gives those back to Linux at
once, and Linux clears every page before it hands it out again: a fifth of a step of the 124M shape in
bfloat16 went into that. Within `kept_memory()` glibc serves them from its heap, which does not shrink; at
the end what is free goes back.

torch.compile keeps for the way back what costs anything to make again: of the 124M shape, 4 x 256 tokens, in
bfloat16 the narrowed weights, queries, keys and values in every order, patterns of attention, 600 MB in all.
What it compiles within `lean_graphs()` keeps 240 MB, and a step takes as long.

It knows nothing of training. `kept_memory` does nothing where the C library is not glibc.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch._functorch.config

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of mallopt's parameters in glibc's malloc.h."""
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65_536}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """For the length of the block. It is the whole process's; blocks must not overlap."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


BUDGET = 0.9
"""Of what would be kept; PyTorch takes back first what is large and quick to make, and 0.7 is hardly less."""


@contextlib.contextmanager
def lean_graphs() -> Iterator[None]:
    """For graphs that are compiled within the block, which is when they first run."""
    with torch._functorch.config.patch(activation_memory_budget=BUDGET):
        yield
