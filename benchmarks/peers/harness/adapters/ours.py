"""This project's engine through its public API: gpt2.load(..., weights=WIDTH).

Setting: the cache in the precision of the width (float32, bfloat16, int8), all else as by default. One
stream is timed by the chunks of stream(). A batch has no such clock, so the time to the first tokens is
that of the same call with max_new_tokens=1 on other prompts of the same shape. A width that the engine does
not have yet is its own error.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpt2
from harness.operations import VOCABULARY, Prompts, Times

MODEL = "model"
"""The folder of the quantised model inside the row's own: the command makes it itself."""


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    """int8 and int4: the directory that `gpt2 quantize` writes, which is loaded mapped. The others load the
    checkpoint itself; bfloat16 is narrowed at each load."""
    width = options["weights"]
    if width in ("int8", "int4"):
        command = [sys.executable, "-m", "gpt2", "quantize", str(checkpoint), "--weights", width]
        done = subprocess.run([*command, "--output", str(folder / MODEL)], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "gpt2 quantize failed")


class Engine:
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        own = folder / MODEL
        weights = "auto" if own.is_dir() else options["weights"]
        more = {"cache": options["cache"]} if "cache" in options else {}
        self.model = gpt2.load(own if own.is_dir() else checkpoint, weights=weights, threads=threads, **more)

    def run(self, prompts: Prompts, new_tokens: int) -> Times:
        if len(prompts) == 1:
            return self._stream(prompts[0], new_tokens)
        others = [[(id + 1) % (VOCABULARY - 1) for id in prompt] for prompt in prompts]
        begin = time.perf_counter()
        self._generate(others, 1)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        chosen = self._generate(prompts, new_tokens)
        return Times(begin, begin + first, time.perf_counter(), chosen)

    def _stream(self, prompt: list[int], new_tokens: int) -> Times:
        begin = time.perf_counter()
        first = 0.0
        ids: list[int] = []
        options = {"temperature": 0.0, "max_new_tokens": new_tokens, "ignore_eos": True}
        for chunk in self.model.stream(prompt, **options):
            first = first or time.perf_counter()
            ids += chunk.tokens
        last = time.perf_counter()
        if len(ids) != new_tokens:
            raise RuntimeError("a completion is shorter than was asked for")
        return Times(begin, first, last, [ids[-1]])

    def _generate(self, prompts: Prompts, new_tokens: int) -> list[int]:
        done = self.model.generate(prompts, temperature=0.0, max_new_tokens=new_tokens, ignore_eos=True)
        if any(len(completion.tokens) != new_tokens for completion in done):
            raise RuntimeError("a completion is shorter than was asked for")
        return [completion.tokens[-1] for completion in done]
