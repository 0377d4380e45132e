"""Muon, the optimiser of the block matrices: momentum whose update is made orthogonal before it is applied.

K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024). For a matrix whose
momentum is M = U S Vᵀ the step is U Vᵀ, found by five Newton-Schulz iterations in bfloat16. The query, key
and value parts of c_attn are three matrices to it. Matrices of one shape are stacked and orthogonalised
together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic: steepest at zero among those that keep singular values near 1 (Jordan,
2024)."""


@torch.compile(dynamic=False)
def orthogonalise(m: Tensor) -> Tensor:
    """[K, R, C] with R <= C -> each matrix with its singular values moved near 1."""
    a, b, c = NEWTON_SCHULZ
    x = m.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    result: Tensor = x.float()
    return result


class Muon:
    """Steps a list of (name, matrix); `c_attn` matrices [3C, C] are stepped as three of [C, C]."""

    def __init__(self, named: Sequence[tuple[str, Tensor]], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self.groups: dict[tuple[int, int], list[tuple[Tensor, int, int]]] = defaultdict(list)
        for name, p in named:
            rows = p.shape[0] // 3 if "c_attn" in name else p.shape[0]
            for start in range(0, p.shape[0], rows):
                self.groups[(rows, p.shape[1])].append((p, start, start + rows))
        self.buffers = {shape: torch.zeros(len(parts), *shape) for shape, parts in self.groups.items()}

    @torch.no_grad()
    def step(self, lr: float, weight_decay: float) -> None:
        for shape, parts in self.groups.items():
            grads = torch.stack([p.grad[i:j] for p, i, j in parts if p.grad is not None])  # [K, R, C]
            buffer = self.buffers[shape]
            buffer.lerp_(grads, 1 - self.momentum)
            update = grads.lerp_(buffer, self.momentum)  # Nesterov: look one step ahead
            tall = shape[0] > shape[1]
            update = orthogonalise(update.transpose(1, 2).contiguous() if tall else update)
            update = update.transpose(1, 2) if tall else update
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for (p, i, j), u in zip(parts, update, strict=True):
                p.data[i:j].mul_(1 - lr * weight_decay).add_(u, alpha=-lr * scale)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{r}x{c}": buffer for (r, c), buffer in self.buffers.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for (r, c), buffer in self.buffers.items():
            buffer.copy_(state[f"{r}x{c}"])
