"""A float model in, the tensors of the quantised model out.

One matrix is widened, rounded and packed at a time, so that beside the two models there is never more than a
block in float32. Knows the names (gpt2.weights) and the rounding, no files and no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from gpt2.config import GPT2Config
from gpt2.quant.equalise import equalised
from gpt2.quant.int4 import round_int4
from gpt2.quant.int8 import Floats, round_int8
from gpt2.quant.packing import pack_groups, pack_int4, pack_int8, unpack_groups, unpack_int4, unpack_int8
from gpt2.weights.names import check_finite, expected_shapes
from gpt2.weights.packed import stored_tensors
from gpt2.weights.scheme import Scheme
from gpt2.weights.tensor import Array, Tensor

EMBEDDINGS = ("wte.weight", "lm_head.weight")
"""Tables of rows, one for each token: rounded by row, and packed as matrices [C, V]."""


def quantise(weights: Mapping[str, Tensor], config: GPT2Config, scheme: Scheme) -> Iterator[Tensor]:
    """The tensors of the quantised model, in the order of the forward pass.

    `weights` are those of open_weights(path, config): canonical names, float32, float16 or bfloat16. Vectors
    come out as float32, wpe in its own dtype (float16 as float32). Raises WeightsError where a value is not
    finite, or a matrix has more than 32,768 inputs.
    """
    shapes = expected_shapes(config)
    for _ in stored_tensors(shapes, scheme):
        pass  # refuses a model that cannot be stored before work is done on it
    block: dict[str, Floats] = {}
    for name in shapes:
        tensor = weights[name]
        check_finite(tensor)
        if name in EMBEDDINGS:
            yield from _packed(name, tensor.to_float32().T, Scheme(method="int8", symmetric=scheme.symmetric))
        elif name == "wpe.weight" and tensor.dtype != "float16":
            yield tensor
        elif name.startswith("h."):
            _, number, part = name.split(".", 2)
            block[part] = tensor.to_float32()
            if part == "mlp.c_proj.bias":  # the last of a block
                yield from _block(f"h.{number}.", equalised(block) if scheme.equalised else block, scheme)
                block = {}
        else:
            yield _tensor(name, tensor.to_float32())


def _block(prefix: str, block: Mapping[str, Floats], scheme: Scheme) -> Iterator[Tensor]:
    for part, array in block.items():
        if array.ndim == 2:
            yield from _packed(prefix + part, array, scheme)
        else:
            yield _tensor(prefix + part, array)


def _packed(name: str, matrix: Floats, scheme: Scheme) -> Iterator[Tensor]:
    """The stored tensors of one matrix [K, N]; see weights/packed.py."""
    if scheme.method == "int8":
        eight = round_int8(matrix, symmetric=scheme.symmetric)
        yield _tensor(name + ".q", pack_int8(eight.q))
        if eight.zero is not None:
            yield _tensor(name + ".zero", eight.zero)
        yield _tensor(name + ".scale", eight.scale)
    else:
        four = round_int4(matrix, group=scheme.group or 0, symmetric=scheme.symmetric)
        yield _tensor(name + ".q4", pack_int4(four.q))
        yield _tensor(name + ".mult", pack_groups(four.mult, 1))
        if four.offset is not None:
            yield _tensor(name + ".offset", pack_groups(four.offset, -8))
        yield _tensor(name + ".scale", four.scale)


def _tensor(name: str, array: Array) -> Tensor:
    return Tensor(name, array.dtype.name, array.shape, array)


def dequantise(weights: Mapping[str, Tensor], config: GPT2Config) -> Iterator[Tensor]:
    """The float32 tensors that a quantised model stands for, by their canonical names."""
    for name, shape in expected_shapes(config).items():
        if name in weights:
            yield weights[name]
        else:
            k, n = shape[::-1] if name in EMBEDDINGS else shape
            matrix = integers(weights, name, k, n).astype(np.float32) * weights[name + ".scale"].array
            yield _tensor(name, np.ascontiguousarray(matrix.T if name in EMBEDDINGS else matrix))


def integers(weights: Mapping[str, Tensor], name: str, k: int, n: int) -> Array:
    """The whole numbers [K, N] int16 that are multiplied with the activations: q - zero, or int4's w8."""
    if name + ".q" in weights:
        q = unpack_int8(weights[name + ".q"].array, k, n).astype(np.int16)
        zero = weights.get(name + ".zero")
        return q if zero is None else q - zero.array
    q4 = weights[name + ".q4"].array
    levels = unpack_int4(q4, q4.shape[1] * 8, n)
    mult = unpack_groups(weights[name + ".mult"].array, n).astype(np.int16)
    group = levels.shape[0] // mult.shape[0]
    stored = weights.get(name + ".offset")
    offset = -8 * mult if stored is None else unpack_groups(stored.array, n).astype(np.int16)
    return (np.repeat(mult, group, axis=0) * levels + np.repeat(offset, group, axis=0))[:k]
