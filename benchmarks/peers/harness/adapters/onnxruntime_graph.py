"""onnxruntime on a graph of its own fused operators (adapters/onnxruntime_model.py).

Setting: all graph optimisations, intra-op threads = the threads asked for with spinning, one inter-op
thread, inputs and outputs bound. Attention is GroupQueryAttention whose past and present are one buffer, so
that a step copies no cache; the head runs on the last position only. float32; int8 by onnxruntime's dynamic
quantisation (MatMulInteger with activations quantised per tensor at run time); int4 (and int8) weights in
blocks by MatMulNBits, accuracy level 4 (int8 activations). onnxruntime's CPU provider has no bfloat16
arithmetic for these operators.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from harness.operations import Prompts
from harness.stepping import SteppedEngine


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    from harness.adapters import onnxruntime_model

    onnxruntime_model.write(checkpoint, folder, options)


class Engine(SteppedEngine):
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        config = json.loads((checkpoint / "config.json").read_text())
        self.layers, self.heads = config["n_layer"], config["n_head"]
        self.head_size = config["n_embd"] // self.heads
        self.vocabulary = config["vocab_size"]
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        session.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", session, providers=["CPUExecutionProvider"]
        )
        self.shape: tuple[int, int] = (0, 0)

    def prepare(self, prompts: Prompts, new_tokens: int) -> None:
        """Caches [B, H, positions, D] for each layer, key and value: room for the whole run."""
        shape = (len(prompts), len(prompts[0]) + new_tokens)
        if shape == self.shape:
            return
        self.shape = shape
        cache = np.zeros((shape[0], self.heads, shape[1], self.head_size), dtype=np.float32)
        names = [f"{kind}_{i}" for i in range(self.layers) for kind in ("key", "value")]
        self.caches = {name: onnxruntime.OrtValue.ortvalue_from_numpy(cache.copy()) for name in names}

    def start(self, prompts: Prompts, new_tokens: int) -> None:
        self.length = 0
        self._forward(np.array(prompts, dtype=np.int64))

    def step(self) -> None:
        self._forward(self.tokens)

    def chosen(self) -> list[int]:
        return [int(id) for id in self.tokens[:, 0]]

    def _forward(self, ids: np.ndarray) -> None:
        """ids: [B, T]; leaves the greedy choice in self.tokens [B, 1]."""
        batch, count = ids.shape
        total = self.length + count
        binding = self.session.io_binding()
        binding.bind_cpu_input("ids", ids)
        binding.bind_cpu_input("positions", np.arange(self.length, total, dtype=np.int64)[None])
        binding.bind_cpu_input("seqlens_k", np.full((batch,), total - 1, dtype=np.int32))
        binding.bind_cpu_input("total", np.array(total, dtype=np.int32))
        for name, cache in self.caches.items():
            binding.bind_ortvalue_input(f"past_{name}", cache)
            binding.bind_ortvalue_output(f"present_{name}", cache)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        logits = binding.get_outputs()[-1].numpy()  # [B, 1, V]
        self.tokens = logits.argmax(-1).astype(np.int64)
        self.length = total
