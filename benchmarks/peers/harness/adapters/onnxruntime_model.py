"""GPT-2 as an ONNX graph in onnxruntime's fused operators, and its quantised forms.

Knows the graph and the quantisers of the packages onnx and onnxruntime; running it is
adapters/onnxruntime_graph.py. Letters: B prompts, T new positions, S positions of the cache buffer, H
heads, D head size, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


class Graph:
    """Collects nodes; each method returns the name of the tensor that it makes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, *more: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output, *more], name=output, **attributes))
        return output

    def norm(self, x: str, name: str) -> str:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return self.node("LayerNormalization", inputs, f"{name}.out", epsilon=1e-5)

    def linear(self, x: str, name: str) -> str:
        product = self.node("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return self.node("Add", [product, f"{name}.bias"], f"{name}.out")

    def attention(self, x: str, layer: int, heads: int) -> str:
        name = f"h.{layer}.attn"
        qkv = self.linear(x, f"{name}.c_attn")
        self.node("Split", [qkv, "thirds"], f"{name}.q", f"{name}.k", f"{name}.v", axis=-1)
        past = [f"past_key_{layer}", f"past_value_{layer}"]
        inputs = [f"{name}.q", f"{name}.k", f"{name}.v", *past, "seqlens_k", "total"]
        present = (f"present_key_{layer}", f"present_value_{layer}")
        kinds = {"domain": "com.microsoft", "num_heads": heads, "kv_num_heads": heads}
        out = self.node("GroupQueryAttention", inputs, f"{name}.out", *present, **kinds)
        return self.linear(out, f"{name}.c_proj")

    def block(self, x: str, layer: int, heads: int) -> str:
        h = f"h.{layer}"
        mid = self.node("Add", [x, self.attention(self.norm(x, f"{h}.ln_1"), layer, heads)], f"{h}.mid")
        inner = self.node("MatMul", [self.norm(mid, f"{h}.ln_2"), f"{h}.mlp.c_fc.weight"], f"{h}.fc")
        inner = self.node("FastGelu", [inner, f"{h}.mlp.c_fc.bias"], f"{h}.gelu", domain="com.microsoft")
        return self.node("Add", [mid, self.linear(inner, f"{h}.mlp.c_proj")], f"{h}.out")


def build(checkpoint: Path) -> onnx.ModelProto:
    """The float32 model, weights as external-ready initializers."""
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    layers, heads, channels = config["n_layer"], config["n_head"], config["n_embd"]
    weights["head"] = np.ascontiguousarray(weights["wte.weight"].T)
    weights["last"] = np.array([-1], dtype=np.int64)
    weights["thirds"] = np.full(3, channels, dtype=np.int64)
    graph = Graph()
    tokens = graph.node("Gather", ["wte.weight", "ids"], "tok")
    x = graph.node("Add", [tokens, graph.node("Gather", ["wpe.weight", "positions"], "pos")], "x")
    for layer in range(layers):
        x = graph.block(x, layer, heads)
    final = graph.node("Gather", [x, "last"], "last_row", axis=1)
    graph.node("MatMul", [graph.norm(final, "ln_f"), "head"], "logits")

    info = helper.make_tensor_value_info
    cache = ["B", heads, "S", channels // heads]
    inputs = [info("ids", TensorProto.INT64, ["B", "T"]), info("positions", TensorProto.INT64, [1, "T"])]
    inputs += [info("seqlens_k", TensorProto.INT32, ["B"]), info("total", TensorProto.INT32, [])]
    names = [f"{kind}_{i}" for i in range(layers) for kind in ("key", "value")]
    inputs += [info(f"past_{name}", TensorProto.FLOAT, cache) for name in names]
    outputs = [info(f"present_{name}", TensorProto.FLOAT, cache) for name in names]
    outputs += [info("logits", TensorProto.FLOAT, ["B", 1, config["vocab_size"]])]
    constants = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in weights.items()]
    body = helper.make_graph(graph.nodes, "gpt2", inputs, outputs, constants)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=imports, ir_version=10)


def write(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    """model.onnx (with model.data beside it) in the form that options["quantize"] names."""
    model = build(checkpoint)
    kind = options["quantize"]
    if kind == "dynamic":
        model = dynamic_int8(model, folder)
    elif kind == "blocks":
        model = blockwise(model, options["bits"], options["block"])
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="model.data")


def dynamic_int8(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, done = folder / "float32.onnx", folder / "dynamic.onnx"
    onnx.save_model(model, plain, save_as_external_data=True, location="float32.data")
    quantize_dynamic(
        plain,
        done,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # behind the fused operators it cannot tell
    )
    quantised = onnx.load(done)
    for path in folder.iterdir():
        path.unlink()
    return quantised


def blockwise(model: onnx.ModelProto, bits: int, block: int) -> onnx.ModelProto:
    """MatMulNBits for every matrix, the head included; the embedding table stays float32."""
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    quantizer = nbits.MatMulNBitsQuantizer(
        model, bits=bits, block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    return quantizer.model.model
