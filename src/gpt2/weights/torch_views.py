"""From references into storages to arrays over the mapped file; shared by the two torch formats."""

from __future__ import annotations

from collections.abc import Mapping

from gpt2.weights.tensor import NUMPY_OF, MappedFile, Tensor
from gpt2.weights.torch_pickle import TensorRef


def tensors_on(file: MappedFile, refs: Mapping[str, TensorRef], offsets: Mapping[str, int]) -> list[Tensor]:
    """A view for each reference; `offsets` says at which byte each storage begins."""
    out = []
    for name, ref in refs.items():
        dtype = ref.storage.dtype
        width = NUMPY_OF[dtype].itemsize
        begin = offsets[ref.storage.key] + ref.offset * width
        strides = tuple(step * width for step in ref.stride)
        out.append(
            Tensor(name, dtype, ref.shape, file.strided(dtype, ref.shape, begin, strides), str(file.path))
        )
    return out
