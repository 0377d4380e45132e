"""PyTorch's tensors as the named arrays that files hold, and back; bfloat16 as its bits. And tensors that
several processes hold in parts (FSDP2), made whole."""

from __future__ import annotations

import numpy as np
import torch

from gpt2.weights import Tensor
from gpt2.weights.tensor import Array


def to_numpy(tensor: torch.Tensor, name: str) -> Array | Tensor:
    """For save_safetensors; shares memory where the tensor is on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        return Tensor(name, "bfloat16", tuple(tensor.shape), bits)
    return tensor.numpy()  # type: ignore[no-any-return]


def from_numpy(tensor: Tensor) -> torch.Tensor:
    """A copy: PyTorch may not write to a mapped file."""
    array: Array = np.array(tensor.array, order="C")
    if tensor.dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or all of one that several processes hold in parts (all of them must ask)."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A copy of a whole tensor, held as `parameter` is: in parts where that is."""
    if not hasattr(parameter, "device_mesh"):
        return tensor.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
