"""transformers' GPT2LMHeadModel in PyTorch, eager (no compilation), float32 or bfloat16.

Setting: attention by torch's scaled_dot_product_attention or by transformers' own ("eager"), as the option
says; cache of the library's choice (DynamicCache); logits of the last position only; inference mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from harness.operations import Prompts
from harness.stepping import SteppedEngine


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    """Nothing to make for float32; bfloat16 gets a file of its own, so that no load has to narrow."""
    if options["dtype"] != "float32":
        model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=getattr(torch, options["dtype"]))
        model.save_pretrained(folder)


class Engine(SteppedEngine):
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = GPT2LMHeadModel.from_pretrained(
            folder if (folder / "config.json").is_file() else checkpoint,
            dtype=getattr(torch, options["dtype"]),
            attn_implementation=options["attention"],
        ).eval()

    def start(self, prompts: Prompts, new_tokens: int) -> None:
        self.cache: Any = None
        self._forward(torch.tensor(prompts))

    def step(self) -> None:
        self._forward(self.tokens)

    def chosen(self) -> list[int]:
        return [int(id) for id in self.tokens[:, 0]]

    @torch.inference_mode()
    def _forward(self, ids: torch.Tensor) -> None:
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        self.tokens = out.logits[:, -1:].argmax(-1)  # [B, 1]
