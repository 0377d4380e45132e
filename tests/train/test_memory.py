"""Within kept_memory() what is freed is given out again without being cleared; afterwards it goes back."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

from machine import need

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
