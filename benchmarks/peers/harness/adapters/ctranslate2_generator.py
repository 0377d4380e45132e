"""CTranslate2's Generator, its model made by its own converter from transformers' checkpoint.

Setting: one replica, intra_threads = the threads asked for, no padding, greedy search with end_token that
never comes (min_length = max_length), the prompt read in one pass without its logits. float32, and int8
weights with int8 activations per row ("int8_float32"). CTranslate2 has no bfloat16 on the CPU and no int4
beyond the GPU.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ctranslate2

from harness.operations import Prompts, Times


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    converter = ctranslate2.converters.TransformersConverter(str(checkpoint))
    converter.convert(str(folder), quantization=options["compute_type"], force=True)


class Engine:
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=options["compute_type"], intra_threads=threads
        )
        with (folder / "vocabulary.json").open(encoding="utf-8") as file:
            self.symbols: list[str] = json.load(file)

    def run(self, prompts: Prompts, new_tokens: int) -> Times:
        tokens = [[self.symbols[id] for id in prompt] for prompt in prompts]
        first = 0.0
        waiting = len(prompts)

        def seen(_: Any) -> bool:
            nonlocal first, waiting
            waiting -= 1
            if waiting == 0:
                first = time.perf_counter()
            return False

        begin = time.perf_counter()
        results = self.generator.generate_batch(
            tokens,
            max_batch_size=len(prompts),
            min_length=new_tokens,
            max_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=seen,
        )
        last = time.perf_counter()
        if any(len(result.sequences_ids[0]) != new_tokens for result in results):
            raise RuntimeError("a completion is shorter than was asked for")
        return Times(begin, first, last, [result.sequences_ids[0][-1] for result in results])
