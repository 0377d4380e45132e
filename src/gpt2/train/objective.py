"""From a batch to the number that training makes smaller, in one module.

One module, because whoever spreads a model over processes hooks into its forward(). Letters: B sequences,
T tokens. It knows the model (gpt2.model), the loss (loss.py) and what a batch is; no optimiser and no files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt2.model import GPT2
from gpt2.train.data import Batch
from gpt2.train.loss import cross_entropy

Arrays = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class Objective(nn.Module):
    """(tokens, targets, documents, positions) -> the summed cross-entropy of all targets, in nats."""

    def __init__(self, model: GPT2, *, rows: int = 1024) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """All [B, T] int64, as gpt2.train.data.Batch has them; a target of -100 has no loss."""
        hidden = self.model.hidden(tokens, positions=positions, documents=documents)  # [B, T, C]
        return cross_entropy(hidden.flatten(0, 1), self.model.head, targets.flatten(), rows=self.rows)


def on_device(batch: Batch, device: torch.device) -> Arrays:
    """The arrays of a batch as tensors, in the order in which Objective takes them."""
    tokens, targets, documents, positions = (
        None if array is None else torch.from_numpy(array).to(device)
        for array in (batch.tokens, batch.targets, batch.documents, batch.positions)
    )
    return tokens, targets, documents, positions
