"""This project's engine through its public API: gpt2.load(..., weights=WIDTH).

Setting: the default one. One stream is timed by the chunks of stream(). A batch has no such clock, so the
time to the first tokens is that of the same call with max_new_tokens=1 on other prompts of the same shape.
A width that the engine does not have yet is its own error.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gpt2
from harness.operations import VOCABULARY, Prompts, Times


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    """Writes the directory that `gpt2 quantize` would, for the widths that it has; others load the
    checkpoint itself."""
    if options["weights"] in ("int8", "int4"):
        import subprocess
        import sys

        width = options["weights"]
        command = [sys.executable, "-m", "gpt2", "quantize", str(checkpoint), str(folder), "--weights", width]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "gpt2 quantize"
            )


class Engine:
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        own = (folder / "config.json").is_file()
        weights = "auto" if own else options["weights"]
        more = {"cache": options["cache"]} if "cache" in options else {}
        self.model = gpt2.load(folder if own else checkpoint, weights=weights, threads=threads, **more)

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
