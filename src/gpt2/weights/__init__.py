"""Read and write checkpoints: one file per format, one table of names, and the hub.

    open_weights(path, config)   a directory, a file or a shard index, by content; mapped, nothing copied
    save_safetensors(path, ...)  write the format that all read; save_torch for those who read .bin alone
    check_weights, infer_config  the tensors against a config, and a config from the tensors
    Scheme                       how a quantised model's matrices are stored; packed.py has the tensors
    adapters.py                  LoRA and DoRA adapters in PEFT's format (not imported here)
    hub.py                       from a model's name to a directory (imported only when it is needed)

Nothing here executes anything that a file says. Knows no engine and no PyTorch.
"""

from gpt2.weights.fingerprint import Fingerprint, fingerprint
from gpt2.weights.names import (
    InferredConfig,
    Layout,
    canonical_name,
    check_weights,
    expected_shapes,
    infer_config,
)
from gpt2.weights.opening import open_weights
from gpt2.weights.safetensors import read_safetensors, save_safetensors
from gpt2.weights.scheme import Scheme
from gpt2.weights.tensor import FLOATS, NUMPY_OF, Tensor, Weights
from gpt2.weights.torch_write import save_torch

__all__ = [
    "FLOATS",
    "NUMPY_OF",
    "Fingerprint",
    "InferredConfig",
    "Layout",
    "Scheme",
    "Tensor",
    "Weights",
    "canonical_name",
    "check_weights",
    "expected_shapes",
    "fingerprint",
    "infer_config",
    "open_weights",
    "read_safetensors",
    "save_safetensors",
    "save_torch",
]
