"""Attention a block of queries at a time: what scaled_dot_product_attention computes, for processors.

    y = softmax(scale q k^T, over the keys that a query may see) v

PyTorch's own form for CPUs computes pairs with later keys, too, and is slow on the way back. Here a block
of queries meets the keys up to its own end and no others, so that nearly half of the products are never made,
and the way back computes the pattern anew from the logarithm of its sum (both: Dao et al. 2022,
arXiv:2205.14135, Algorithms 1 and 4). The products are PyTorch's; scores and softmax are float32 (float64 for
float64), the other products in the dtype of q, k and v. It is fast where torch.compile makes one loop of what
stands between two products, and slower than PyTorch's form elsewhere (docs/decisions/training.md).

    B  texts    H  heads    T  tokens    D  channels of a head    R  queries of a block    E  keys they meet

It knows nothing of the model. `tests/model/test_attention.py` holds it to scaled_dot_product_attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""R: with 64 the products are small, with 256 a third more pairs are computed in vain at T = 512."""


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """All but `allowed` [B, H, T, D]. `allowed` [B, 1, T, T] bool, causal; None allows all that is causal."""
    return BlockAttention.apply(q, k, v, allowed, scale)


def faster_in_blocks(q: Tensor, dropout: float) -> bool:
    """Whether compiled code is faster this way than by scaled_dot_product_attention: bfloat16 on a processor.
    (float32 is at T = 256 and 512, and is not at 1,024.) There is no dropout here."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and dropout == 0.0


class BlockAttention(torch.autograd.Function):
    """See attention()."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
        out, sums = [], []
        for a, e in blocks(q.shape[2]):
            score = scores(q[:, :, a:e], k[:, :, :e], allowed, a, scale)  # [B, H, R, E]
            log_z = score.logsumexp(-1, keepdim=True)  # [B, H, R, 1]
            pattern = (score - log_z).exp().to(v.dtype)
            out.append(pattern @ v[:, :, :e])
            sums.append(log_z)
        ctx.save_for_backward(q, k, v, torch.cat(sums, 2), allowed)
        ctx.scale = scale
        return torch.cat(out, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads  # [B, H, T, D]
        q, k, v, log_z, allowed = ctx.saved_tensors
        grad_q = []
        grad_k, grad_v = (torch.zeros_like(x, dtype=log_z.dtype) for x in (k, v))
        for a, e in blocks(q.shape[2]):
            rows, keys = slice(a, e), slice(0, e)
            score = scores(q[:, :, rows], k[:, :, keys], allowed, a, ctx.scale)
            pattern = (score - log_z[:, :, rows]).exp()  # [B, H, R, E]
            grad_v[:, :, keys] += pattern.to(v.dtype).transpose(-1, -2) @ grad[:, :, rows]
            toward = grad[:, :, rows] @ v[:, :, keys].transpose(-1, -2)  # of the pattern
            by_pattern = pattern * toward
            of_score = by_pattern - pattern * by_pattern.sum(-1, keepdim=True)  # softmax, backwards
            of_score = (of_score * ctx.scale).to(q.dtype)
            grad_q.append(of_score @ k[:, :, keys])
            grad_k[:, :, keys] += of_score.transpose(-1, -2) @ q[:, :, rows]
        return torch.cat(grad_q, 2), grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def blocks(t: int) -> list[tuple[int, int]]:
    """[(first, end)] of the queries of each block."""
    return [(a, min(a + BLOCK, t)) for a in range(0, t, BLOCK)]


def scores(q: Tensor, k: Tensor, allowed: Tensor | None, first: int, scale: float) -> Tensor:
    """q [B, H, R, D] of the queries from `first`, k [B, H, E, D] -> [B, H, R, E]; -inf where not allowed.

    Autocast would round the scores, those of a hundred by a quarter; and where compiled code goes back under
    it, not as on the way forward. A pattern from other scores than its sum makes gradients without bound.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    end = first + q.shape[2]
    if allowed is None:
        seen = torch.arange(first, end, device=q.device)[:, None] >= torch.arange(end, device=q.device)
    else:
        seen = allowed[:, :, first:end, :end]
    with torch.autocast(q.device.type, enabled=False):  # see above
        products = q.to(wide) @ k.to(wide).transpose(-1, -2)
    return (products * scale).masked_fill(~seen, -math.inf)
