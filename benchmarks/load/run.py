"""How long it takes to open a checkpoint: by size and by format, beside the formats' own libraries.

    python benchmarks/load/run.py
    python benchmarks/load/run.py --model DIR      # a checkpoint of yours, too

The files are made here: random bytes for the 124M float32 model (498 MB, so the folder needs room) and a
model of about 1M parameters. Each case is timed in turn with the others, warm; the median and the spread of
--rounds are shown. "open" maps and checks every tensor against the config; "read" also touches every byte
once. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gpt2
from gpt2.config import KNOWN_SIZES, GPT2Config
from gpt2.weights import expected_shapes, open_weights, save_safetensors

SMALL = GPT2Config(vocab_size=2000, n_positions=128, n_embd=128, n_layer=4, n_head=2)
Case = Callable[[], object]


def write_model(folder: Path, config: GPT2Config) -> None:
    """Random weights as model.safetensors and, where torch is installed, pytorch_model.bin of both kinds."""
    folder.mkdir()
    config.save(folder)
    generator = np.random.default_rng(1)
    arrays = {
        name: generator.standard_normal(shape, dtype=np.float32)
        for name, shape in expected_shapes(config).items()
    }
    save_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    if importlib.util.find_spec("torch") is not None:
        import torch

        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save(state, folder / "zip.bin")
        torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)


def open_and_read(path: Path, config: GPT2Config) -> int:
    with open_weights(path, config) as weights:
        return sum(int(tensor.array.reshape(-1).view(np.uint8)[::4096].sum()) for tensor in weights.values())


def open_only(path: Path, config: GPT2Config) -> None:
    open_weights(path, config).close()


def first_token(folder: Path) -> object:
    """gpt2.load() to the first token of a short prompt: what a user waits for."""
    return gpt2.load(folder).generate([1, 2, 3], max_new_tokens=1, temperature=0)


def cases(folder: Path, config: GPT2Config, size: str) -> dict[str, Case]:
    out: dict[str, Case] = {}
    for file in ("model.safetensors", "zip.bin", "legacy.bin"):
        path = folder / file
        if path.exists():
            out[f"{size} {file}: open"] = lambda path=path: open_only(path, config)
    path = folder / "model.safetensors"
    out[f"{size} model.safetensors: gpt2.load and the first token"] = lambda: first_token(folder)
    out[f"{size} model.safetensors: open and read"] = lambda: open_and_read(path, config)
    if importlib.util.find_spec("safetensors") is not None:
        import safetensors.numpy

        out[f"{size} model.safetensors: safetensors.numpy.load_file"] = lambda: safetensors.numpy.load_file(
            path
        )
    if (folder / "zip.bin").exists():
        import torch

        out[f"{size} zip.bin: torch.load(mmap=True)"] = lambda: torch.load(
            folder / "zip.bin", mmap=True, weights_only=True
        )
        out[f"{size} zip.bin: torch.load"] = lambda: torch.load(folder / "zip.bin", weights_only=True)
    return out


def import_seconds(statement: str, rounds: int) -> list[float]:
    """Processor time of `statement` in fresh processes that have numpy already."""
    code = f"import time, numpy; a = time.process_time(); {statement}; print(time.process_time() - a)"
    return [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]


def measure(table: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each case; the cases take turns, so that disturbances fall on all of them."""
    for case in table.values():
        case()
    out: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, case in table.items():
            begun = time.perf_counter()
            case()
            out[name].append((time.perf_counter() - begun) * 1e3)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--folder", type=Path, help="where to make the files (default: the system's temporary folder)"
    )
    parser.add_argument("--model", type=Path, help="a model directory of yours")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        table: dict[str, Case] = {}
        for size, config in (("1M", SMALL), ("124M", KNOWN_SIZES["gpt2"])):
            write_model(Path(scratch) / size, config)
            table |= cases(Path(scratch) / size, config, size)
        if options.model:
            given = GPT2Config.from_json(options.model)
            table["yours: open"] = lambda: open_only(options.model, given)
            table["yours: open and read"] = lambda: open_and_read(options.model, given)
        found = measure(table, options.rounds)
    rounds = min(options.rounds, 5)
    found["import gpt2.weights, after numpy"] = [
        s * 1e3 for s in import_seconds("import gpt2.weights", rounds)
    ]
    print(f"{'case':<55}{'median ms':>12}{'lowest':>10}{'highest':>10}")
    for name, times in found.items():
        print(f"{name:<55}{statistics.median(times):>12.2f}{min(times):>10.2f}{max(times):>10.2f}")
    medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
    print(
        json.dumps(
            {"benchmark": "load", "machine": platform.processor() or platform.machine(), "ms": medians}
        )
    )


if __name__ == "__main__":
    main()
