"""What the native engine is given: named arrays, mapped where the file has them as they are wanted.

Matrices are kept as float32, bfloat16, int8 or int4; a float checkpoint is narrowed here on its way. Names
are the canonical ones (weights/names.py), with the suffixes of weights/packed.py where a matrix is quantised.
Of the native module it uses the conversions only; knows no directories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gpt2 import _native
from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest
from gpt2.quant import dequantise, quantise
from gpt2.weights.scheme import Scheme
from gpt2.weights.tensor import Tensor, Weights

_LARGE = 1 << 20  # bytes: giving back costs a walk over the map, some tenths of a millisecond

WeightsDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "int8", "int4"]


def native_tensors(
    opened: Mapping[str, Tensor], config: GPT2Config, weights: WeightsDtype = "auto"
) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The arrays by name, and how the matrices are kept: float32, bfloat16, int8 or int4.

    `opened` is what open_weights(path, config) gave. "auto" keeps what the file has; int8 and int4 round a
    float checkpoint with the default scheme; float32 and bfloat16 widen a quantised one to what its integers
    stand for. Raises InvalidRequest (int8 asked of an int4 file, or the reverse), WeightsError.
    """
    scheme = Scheme.of(config)
    if scheme is not None and weights in ("auto", scheme.method):
        return {name: _vector(tensor) for name, tensor in opened.items()}, scheme.method
    if weights in ("int8", "int4"):
        if scheme is not None:
            raise InvalidRequest(
                "weights",
                got=repr(weights),
                expected=f'"{scheme.method}" or "auto"',
                source="config.json (quantization)",
                likely="rounding a second time would lose twice",
                hint="quantise the model that this one was made from",
            )
        narrowed = quantise(opened, config, Scheme(method=weights))
        return {t.name: _vector(t) for t in _released(narrowed, opened)}, weights
    if scheme is not None:
        opened = {t.name: t for t in _released(dequantise(opened, config), opened)}
    dtype = _common_dtype(opened) if weights == "auto" else weights
    arrays: dict[str, npt.NDArray[Any]] = {}
    for tensor in _released(opened.values(), opened):
        arrays[tensor.name] = as_dtype(tensor, dtype)
    return arrays, dtype


def _released(tensors: Iterable[Tensor], opened: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The tensors as they come; after each large one, what was read of the files so far is given back, so
    that a checkpoint is not in memory whole, beside what is made of it."""
    files = opened.mapped_files if isinstance(opened, Weights) else ()
    for tensor in tensors:
        yield tensor
        if tensor.nbytes >= _LARGE:
            for file in files:
                file.release()


def _vector(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor of a quantised model: integers, scales and a narrow wpe as they are, other floats as
    float32."""
    if tensor.dtype in ("bfloat16", "float16"):
        return as_dtype(
            tensor, "bfloat16" if (len(tensor.shape), tensor.dtype) == (2, "bfloat16") else "float32"
        )
    return np.ascontiguousarray(tensor.array)


def _common_dtype(tensors: Mapping[str, Tensor]) -> Literal["float32", "bfloat16"]:
    """bfloat16 only when every matrix is: a narrower one would lose, a mixture gains nothing."""
    matrices = {t.dtype for t in tensors.values() if len(t.shape) > 1}
    return "bfloat16" if matrices == {"bfloat16"} else "float32"


def as_dtype(tensor: Tensor, dtype: str) -> npt.NDArray[Any]:
    """The view itself where it will do, else a converted copy. Vectors stay float32: they are small.

    A view need not be aligned (in the released files none is): floats are packed, and are read from any byte.
    """
    array = np.ascontiguousarray(tensor.array)  # the same array unless it is strided
    if tensor.dtype == dtype:
        return array
    if len(tensor.shape) > 1 and dtype == "bfloat16":
        flat = np.ascontiguousarray(tensor.to_float32().reshape(-1))
        narrowed: npt.NDArray[Any] = _native.narrow_bfloat16(flat).reshape(tensor.shape)
        return narrowed
    if tensor.dtype == "bfloat16":
        widened: npt.NDArray[Any] = _native.widen_bfloat16(array.reshape(-1)).reshape(tensor.shape)
        return widened
    return array if tensor.dtype == "float32" else tensor.to_float32()
