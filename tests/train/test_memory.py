"""Within kept_memory() what is freed is given out again without being cleared; afterwards it goes back.
What is compiled within lean_graphs() keeps less for the way back, and computes the same."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import subprocess
import sys

import pytest

from machine import need
from native_builds import tool

PROGRAM = """
import resource, sys
import numpy as np
from gpt2.train.memory import kept_memory

MB = 2**20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.full(64 * MB, 1, np.uint8)  # allocated, touched, freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // MB

before = faults()
with kept_memory():
    faults()
    within, kept = faults(), resident()
print(before, within, kept, resident(), faults())
"""


def test_pages_are_kept_and_given_back() -> None:
    need(hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), "the C library is not glibc")
    # A process of its own: what this one has allocated before decides where malloc finds room.
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    before, within, kept, left, after = map(int, out.split())
    pages = 20 * 64 * 2**20 // resource.getpagesize()
    assert within < pages // 20, out
    assert kept - left >= 50, out
    assert (before > pages // 600) == (after > pages // 600), out  # as it was (huge pages fault less)


def test_an_error_within_is_the_callers_and_the_defaults_are_back() -> None:
    from gpt2.train.memory import kept_memory

    with pytest.raises(ZeroDivisionError), kept_memory():
        1 / 0  # noqa: B018
    with kept_memory():
        pass


def test_lean_graphs_keep_less_and_compute_the_same() -> None:
    torch = pytest.importorskip("torch")
    need(tool("g++"), "torch.compile needs a C++ compiler: apt-get install g++")
    from gpt2.config import GPT2Config
    from gpt2.model.gpt2 import GPT2
    from gpt2.train.memory import lean_graphs

    def run(lean: bool) -> tuple[object, list[object], int]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        config = GPT2Config(n_layer=1, n_embd=256, n_head=4, n_positions=256, vocab_size=32, embd_pdrop=0.0,
                            attn_pdrop=0.0, resid_pdrop=0.0)  # fmt: skip
        block = GPT2(config).h[0]
        block.compile(dynamic=False)
        x = torch.randn(2, 256, 256)
        own = {p.untyped_storage().data_ptr() for p in block.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: object) -> object:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            lean_graphs() if lean else contextlib.nullcontext(),
        ):
            y = block(x)
        y.square().sum().backward()
        return y.detach(), [p.grad for p in block.parameters()], sum(kept.values())

    y, gradients, all_of_it = run(lean=False)
    same, others, less = run(lean=True)
    assert less < 0.6 * all_of_it, (less, all_of_it)
    assert torch.equal(y, same)
    for mine, other in zip(gradients, others, strict=True):
        assert float((mine - other).abs().max()) <= 2e-2 * float(mine.abs().max())
