"""From a batch to the number that training makes smaller, in one module.

One module, because whoever spreads a model over processes hooks into its forward(). Letters: B sequences,
T tokens. It knows the model (gpt2.model), the loss (loss.py) and what a batch is; no optimiser and no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.model import GPT2
from gpt2.train.data import Batch
from gpt2.train.loss import cross_entropy

Arrays = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Looked(torch.autograd.Function):
    """x as it is; `look` is called on the way forward and on the way back, and may raise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, look: Callable[[], None]) -> Tensor:
        look()
        ctx.look = look
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.look()
        return grads[0], None


class Objective(nn.Module):
    """(tokens, targets, documents, positions) -> the summed cross-entropy of all targets, in nats."""

    def __init__(self, model: GPT2, *, rows: int = 1024, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.rows, self.compiled = model, rows, compiled
        self.look: Callable[[], None] | None = None
        """Called before each block, forward and back: a pass through a large model takes longer than whoever
        asks it to stop would wait."""

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """All [B, T] int64, as gpt2.train.data.Batch has them; a target of -100 has no loss."""
        look = self.look
        between = None if look is None else lambda x: Looked.apply(x, look)
        hidden = self.model.hidden(
            tokens, positions=positions, documents=documents, between=between
        )  # [B, T, C]
        return cross_entropy(
            hidden.flatten(0, 1), self.model.head, targets.flatten(), rows=self.rows, compiled=self.compiled
        )


def on_device(batch: Batch, device: torch.device) -> Arrays:
    """The arrays of a batch as tensors, in the order in which Objective takes them."""
    tokens, targets, documents, positions = (
        None if array is None else torch.from_numpy(array).to(device)
        for array in (batch.tokens, batch.targets, batch.documents, batch.positions)
    )
    return tokens, targets, documents, positions
