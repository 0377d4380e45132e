"""The engines that are compared, each with start(ids) (read a prompt, choose one token) and step() (one
more token).

All greedy, float32, one stream. onnxruntime gets the graph that suits it best: its fused Attention with
past and present, FastGelu, and the head on the last position only.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

L, H, D, V, POSITIONS = 12, 12, 64, 50257, 1024
C = H * D


def make_checkpoint(folder: Path) -> int:
    """A randomly initialised 124M checkpoint, and the bytes of weights that one token reads."""
    from gpt2.config import GPT2Config
    from gpt2.weights import save_safetensors
    from gpt2.weights.names import expected_shapes

    config = GPT2Config()
    rng = np.random.default_rng(0)
    tensors = {
        name: (
            rng.standard_normal(shape, dtype=np.float32) * 0.02
            + (".ln_" in f".{name}" and name.endswith("weight"))
        )
        for name, shape in expected_shapes(config).items()
    }
    save_safetensors(folder / "model.safetensors", {k: v.astype(np.float32) for k, v in tensors.items()})
    config.save(folder)
    return 4 * (config.n_params - POSITIONS * C)


def available(name: str) -> bool:
    modules = {
        "gpt2": ["gpt2"],
        "transformers": ["torch", "transformers"],
        "onnxruntime": ["onnx", "onnxruntime"],
    }
    return all(importlib.util.find_spec(module) for module in modules[name])


class Ours:
    def __init__(self, folder: Path, threads: int) -> None:
        import gpt2
        from gpt2 import _native

        self.native = gpt2.load(folder, threads=threads)._native
        self.params = _native.SamplerParams()
        self.params.temperature = 0.0
        self.make = _native.Request

    def start(self, ids: np.ndarray) -> None:
        self.request = self.make(self.native, ids.astype(np.int32), self.params)
        self.step()

    def step(self) -> None:
        self.native.step([self.request])


class Transformers:
    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()

    def start(self, ids: np.ndarray) -> None:
        self.cache = None
        self._run(self.torch.as_tensor(ids[None].astype(np.int64)))

    def step(self) -> None:
        self._run(self.token)

    def _run(self, ids: Any) -> None:
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        self.token = out.logits[:, -1:].argmax(-1)


class OnnxRuntime:
    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            build_graph(folder), options, providers=["CPUExecutionProvider"]
        )

    def start(self, ids: np.ndarray) -> None:
        self.past = [np.zeros((2, 1, H, 0, D), dtype=np.float32) for _ in range(L)]
        self._run(ids[None].astype(np.int64))

    def step(self) -> None:
        self._run(self.token)

    def _run(self, ids: np.ndarray) -> None:
        length = self.past[0].shape[3]
        feeds = {"ids": ids, "positions": np.arange(length, length + ids.shape[1])[None]}
        feeds |= {f"past_{i}": past for i, past in enumerate(self.past)}
        logits, *self.past = self.session.run(None, feeds)
        self.token = logits.argmax(-1).reshape(1, 1)


def build_graph(folder: Path) -> bytes:
    """GPT-2 as an ONNX graph with a cache, in onnxruntime's fused operators."""
    from onnx import TensorProto, helper, numpy_helper

    from gpt2.weights import open_weights

    weights = {name: tensor.array for name, tensor in open_weights(folder).items()}
    weights["head"] = np.ascontiguousarray(weights["wte.weight"].T)
    weights["last"] = np.array([-1], dtype=np.int64)
    nodes: list[Any] = []

    def node(kind: str, inputs: list[str], output: str, more: tuple[str, ...] = (), **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output, *more], **attributes))
        return output

    def norm(x: str, name: str) -> str:
        return node("LayerNormalization", [x, f"{name}.weight", f"{name}.bias"], f"{name}.out", epsilon=1e-5)

    def linear(x: str, name: str) -> str:
        product = node("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return node("Add", [product, f"{name}.bias"], f"{name}.out")

    x = node(
        "Add",
        [node("Gather", ["wte.weight", "ids"], "tok"), node("Gather", ["wpe.weight", "positions"], "pos")],
        "x",
    )
    for i in range(L):
        h = f"h.{i}"
        attention = [f"{h}.attn.c_attn.weight", f"{h}.attn.c_attn.bias", "", f"past_{i}"]
        fused = {"domain": "com.microsoft", "num_heads": H, "unidirectional": 1}
        inputs = [norm(x, f"{h}.ln_1"), *attention]
        attended = node("Attention", inputs, f"{h}.attn", (f"present_{i}",), **fused)
        x = node("Add", [x, linear(attended, f"{h}.attn.c_proj")], f"{h}.mid")
        inner = node("MatMul", [norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc.weight"], f"{h}.fc")
        inner = node("FastGelu", [inner, f"{h}.mlp.c_fc.bias"], f"{h}.gelu", domain="com.microsoft")
        x = node("Add", [x, linear(inner, f"{h}.mlp.c_proj")], f"{h}.out")
    final = node("Gather", [norm(x, "ln_f"), "last"], "last_row", axis=1)
    node("MatMul", [final, "head"], "logits")
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    inputs = [helper.make_tensor_value_info(name, i64, [1, "T"]) for name in ("ids", "positions")]
    inputs += [helper.make_tensor_value_info(f"past_{i}", f32, [2, 1, H, "P", D]) for i in range(L)]
    outputs = [helper.make_tensor_value_info("logits", f32, [1, 1, V])]
    outputs += [helper.make_tensor_value_info(f"present_{i}", f32, [2, 1, H, "S", D]) for i in range(L)]
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()
    ]
    graph = helper.make_graph(nodes, "gpt2", inputs, outputs, constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return data


ENGINES = {"gpt2": Ours, "transformers": Transformers, "onnxruntime": OnnxRuntime}
