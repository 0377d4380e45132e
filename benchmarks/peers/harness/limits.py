"""What the machine gives in this very run, and the share of it that a rate is.

Compiles limits.cc with the system's C++ compiler into the cache folder and runs it. The bytes that a token
must read are those of our own layout for the width (weights and cache), for every engine alike: a share
says how near an engine comes to what the width allows, not how large its files are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import checkpoint, environments
from harness.operations import Operation

CACHE_BYTES = {"float32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 1.0}
"""Bytes of a cached element."""


def weight_bytes(width: str, shape: str) -> float:
    """Bytes of the matrices that one token reads. int4: a byte for each group of 32; an int8 head."""
    layers, _, channels = checkpoint.SHAPES[shape]
    blocks, head = layers * 12.0 * channels**2, 50257.0 * channels
    each = {"float32": (4.0, 4.0), "bf16": (2.0, 2.0), "int8": (1.0, 1.0), "int4": (0.5 + 1 / 32, 1.0)}
    return blocks * each[width][0] + head * each[width][1]


def working_set(width: str, shape: str, context: float) -> float:
    """Bytes that a decoded token reads at that context: the weights and its cache."""
    return weight_bytes(width, shape) + checkpoint.cache_values(shape, context) * CACHE_BYTES[width]


def sizes(widths: list[str], shape: str) -> list[int]:
    """The working sets, in MB, whose bandwidth is measured: weights and a middling cache."""
    return sorted({round(working_set(width, shape, 256) / 1e6) for width in widths})


def compile_probe(cache: Path) -> Path | None:
    """The compiled limits.cc; None without a compiler or on a processor that it does not know."""
    source, target = environments.PEERS / "limits.cc", cache / "limits"
    if target.is_file() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    compiler = next((name for name in ("g++", "c++") if shutil.which(name)), None)
    if compiler is None or os.uname().machine != "x86_64":
        return None
    cache.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=c++20", "-O2", "-pthread", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return target if done.returncode == 0 else None


def measure(probe: Path | None, threads: int, megabytes: list[int]) -> dict[str, Any]:
    """{"read_gb_s": {MB: GB/s}, "gops": {kind: 1e9 operations/s}}; both empty without a probe."""
    if probe is None:
        return {"read_gb_s": {}, "gops": {}}
    command = [str(probe), str(threads), *map(str, megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def share_of_reading(
    rate: float, width: str, shape: str, operation: Operation, limits: dict[str, Any]
) -> float | None:
    """Of the read bandwidth at this width's working set, in a decode of one stream."""
    size = working_set(width, shape, operation.mean_context)
    known = {float(mb): value for mb, value in limits["read_gb_s"].items()}
    if not known or operation.is_prefill or operation.batch > 1:
        return None
    nearest = min(known, key=lambda mb: abs(mb * 1e6 - size))
    return rate * size / 1e9 / known[nearest]


def share_of_arithmetic(
    rate: float, width: str, shape: str, operation: Operation, limits: dict[str, Any]
) -> float | None:
    """Of the arithmetic that the best unit for this width gives, in a prefill."""
    kinds = {"float32": ("float32",), "bf16": ("bf16_matrix", "bf16_vector", "float32")}
    wanted = kinds.get(width, ("int8_matrix", "int8_vector", "float32"))
    known = [limits["gops"][kind] for kind in wanted if kind in limits["gops"]]
    if not known or not operation.is_prefill:
        return None
    flops = checkpoint.prefill_flops(shape, operation.context) / operation.context
    return rate * flops / 1e9 / known[0]
