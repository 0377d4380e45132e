"""The GPT-2 that the demo recipe trains: the reference's arithmetic, arranged to be fast on two CPU cores.

The architecture is Hugging Face's `GPT2LMHeadModel` to the letter (pre-LayerNorm, learned positions, biases,
the tanh GELU, output head tied to the token embedding). Two things are arranged differently, with the same
result:
  - attention runs over blocks of queries, each against the keys up to its own end only. With PyTorch's own
    CPU kernel attention took a quarter of the step (T = 256); this way nearly half of the masked scores are
    never computed.
  - the loss is computed with its gradient, a slice of rows at a time, so that the logits [N, V] stay in the
    cache.

B batch, T time, C channels, H heads, D = C / H, V vocabulary, L layers, N = B * T. It knows nothing of data,
optimisers or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

QUERY_BLOCK = 128
"""Queries per block of attention: at T = 256 a step is 11 % faster than with one block of 256."""
LOSS_ROWS = 1024
"""Rows per slice of the loss: 1024 rows of 6,144 bfloat16 logits are 12 MB, within the last-level cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of the model, named as in Hugging Face's config.json."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c = shape.n_embd
        self.n_head = shape.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.c_attn, self.attn_proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.c_fc, self.mlp_proj = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn_proj(self.attend(self.ln_1(x), mask))
        hidden = functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        out: Tensor = x + self.mlp_proj(hidden)
        return out

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, c = x.shape
        d = c // self.n_head
        q, k, v = self.c_attn(x).view(b, t, 3, self.n_head, d).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D]
        parts = []
        for start in range(0, t, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, t)
            scores = (q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)).float() * d**-0.5
            weights = torch.softmax(scores + mask[start:end, :end], -1).to(v.dtype)
            parts.append(weights @ v[:, :, :end])
        return torch.cat(parts, 2).transpose(1, 2).reshape(b, t, c)


class Blocks(nn.Module):
    """Everything between the embeddings and the head: what is compiled."""

    mask: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.n_embd)
        square = torch.full((shape.n_positions, shape.n_positions), float("-inf"))
        self.register_buffer("mask", square.triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.h:
            x = block(x, self.mask)
        return self.ln_f(x)  # type: ignore[no-any-return]


class DemoGPT2(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.wpe = nn.Embedding(shape.n_positions, shape.n_embd)
        self.blocks = Blocks(shape)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """GPT-2's initialisation, but the projections back into the residual stream start at zero.

        Then every block starts as the identity, which trains faster than small random projections.
        """
        for name, p in self.named_parameters():
            if name.endswith(("proj.weight", "bias")):
                p.zero_()
            elif name == "wpe.weight":
                p.normal_(0, 0.01)
            elif p.dim() == 2:
                p.normal_(0, 0.02 if name == "wte.weight" else p.shape[1] ** -0.5 * 0.6)

    def compile_blocks(self) -> None:
        """Compile the blocks, not the embedding: its eager gradient is deterministic, the compiled is not."""
        self.blocks.compile(dynamic=False)

    def hidden(self, ids: Tensor) -> Tensor:
        """[B, T] token ids -> [B, T, C] final hidden states."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        return self.blocks(x)  # type: ignore[no-any-return]

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy, in nats per token."""
        with torch.autocast("cpu", torch.bfloat16):
            h = self.hidden(ids)
        rows = h.reshape(-1, self.shape.n_embd).bfloat16()
        flat = targets.reshape(-1)
        return SlicedCrossEntropy.apply(rows, self.wte.weight, flat)  # type: ignore[no-any-return, no-untyped-call]


class SlicedCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy of x Wᵀ against targets, with both gradients made on the way forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, targets: Tensor) -> Tensor:
        n = x.shape[0]
        w16 = w.bfloat16()
        grad_x, grad_w = torch.empty_like(x), torch.zeros_like(w)
        total = torch.zeros(())
        for i in range(0, n, LOSS_ROWS):
            rows = x[i : i + LOSS_ROWS]
            loss, grad = slice_loss(rows @ w16.T, targets[i : i + LOSS_ROWS], 1.0 / n)
            total += loss
            if ctx.needs_input_grad[0]:
                torch.mm(grad, w16, out=grad_x[i : i + LOSS_ROWS])
                grad_w += grad.T @ rows
        ctx.save_for_backward(grad_x, grad_w)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grads[0], grad_w * grads[0], None


@torch.compile(dynamic=False)
def slice_loss(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[R, V] logits -> the sum of the losses, and scale * d(sum) / d(logits) in bfloat16."""
    logits = logits.float()
    top = logits.amax(1, keepdim=True)
    raised = (logits - top).exp()
    z = raised.sum(1, keepdim=True)
    hit = torch.arange(logits.shape[1])[None] == targets[:, None]
    p = raised * (scale / z)
    picked = torch.gather(logits, 1, targets[:, None])
    return ((top + z.log()) - picked).sum(), torch.where(hit, p - scale, p).bfloat16()
