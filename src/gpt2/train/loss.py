"""The loss over the vocabulary, without the logits ever existing whole.

Logits of B = 8, T = 1024 and V = 50257 are 1.6 GB, and their gradient as much again. Here the head and the
cross-entropy are computed for a few rows at a time, and the gradients with respect to the hidden states and
to the head are made on the way forward, while those logits are at hand; the backward pass only scales them.

    N rows (B T), C = n_embd, V vocabulary, R rows at a time

Under autocast the products are in its dtype and the loss in float32, as `functional.cross_entropy` of
`functional.linear` has it. It knows nothing of models: a matrix, hidden states, targets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

NO_LOSS = -100
"""A target that does not count, as in PyTorch's cross_entropy."""


MULTIPLE = 64
"""Rows of a 16-bit head are made a multiple of this: with V = 50,257 its products take an eighth more."""

STRIP = 8192
"""Rows of the head whose gradient is computed at a time."""

SliceLoss: TypeAlias = Callable[[Tensor, Tensor, int, bool], tuple[Tensor, Tensor | None]]


def cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, *, rows: int = 1024, compiled: bool = False
) -> Tensor:
    """The sum of -log softmax(hidden head^T)[target] over the rows whose target is not NO_LOSS, in nats.

    Args:
        hidden: [N, C], of any float dtype.
        head: [V, C].
        targets: [N] int64, in [0, V) or NO_LOSS.
        rows: R, how many rows of logits exist at once.
        compiled: by torch.compile what is done to them: a third of the time.

    Returns a scalar: float64 for float64 inputs, otherwise float32. A sum and not a mean, because what it is
    to be divided by is known only to whoever sees all parts of a batch. Differentiable once.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden = hidden.to(dtype)  # a cast that autograd sees, so that gradients come back in their own dtype
        with torch.autocast(device, enabled=False):
            return _sum(hidden, head, targets, rows, dtype, compiled)
    return _sum(hidden, head, targets, rows, head.dtype, compiled)


def _sum(
    hidden: Tensor, head: Tensor, targets: Tensor, rows: int, dtype: torch.dtype, compiled: bool
) -> Tensor:
    return SlicedCrossEntropy.apply(hidden, head, targets, rows, dtype, compiled)


class SlicedCrossEntropy(torch.autograd.Function):
    """See cross_entropy. `dtype` is that of the matrix products."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        rows: int,
        dtype: torch.dtype,
        compiled: bool,
    ) -> Tensor:
        x, w = hidden.to(dtype), padded(head, dtype)
        wants_x, wants_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_x = torch.empty_like(x) if wants_x else None  # [N, C]
        grad_w: Tensor | None = None  # [V, C], in the head's own precision
        total = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        total = total.to(hidden.device)
        of_slice, v = compiled_slice_loss() if compiled else slice_loss, head.shape[0]
        for start in range(0, x.shape[0], rows):
            part = x[start : start + rows]  # [R, C]
            wanted = targets[start : start + rows]  # [R]
            logits = part @ w.T  # [R, >= V]
            loss, at_target = of_slice(logits, wanted, v, wants_x or wants_w)
            total = total + loss
            if at_target is None:
                continue
            grad = logits.scatter_(1, wanted.clamp(min=0)[:, None], at_target)
            if grad_x is not None:
                torch.mm(grad, w, out=grad_x[start : start + rows])
            if wants_w:
                grad_w = add_outer(grad_w, grad, part, like=head)
        ctx.save_for_backward(grad_x, grad_w)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        grad_x, grad_w = ctx.saved_tensors
        out_x = None if grad_x is None else grad_x * scale.to(grad_x.dtype)
        out_w = None if grad_w is None else grad_w.mul_(scale.to(grad_w.dtype))  # ours alone: no copy
        return out_x, out_w, None, None, None, None


def add_outer(total: Tensor | None, grad: Tensor, part: Tensor, *, like: Tensor) -> Tensor:
    """total + grad^T part: [R, >= V] and [R, C] -> [V, C] in the dtype of `like`, which has that shape. A
    strip of the vocabulary at a time, so that there is no second [V, C] in the dtype of the products."""
    out = torch.empty_like(like) if total is None else total
    for start in range(0, len(out), STRIP):
        strip = out[start : start + STRIP]
        of_strip = grad[:, start : start + len(strip)].T
        if total is None:
            strip.copy_(of_strip @ part)
        elif out.dtype == part.dtype:
            strip.addmm_(of_strip, part)
        else:
            strip.add_(of_strip @ part)
    return out


def padded(head: Tensor, dtype: torch.dtype) -> Tensor:
    """The head [V, C] in `dtype`, with rows of zeros up to a multiple where that makes a copy anyway."""
    v, c = head.shape
    if dtype == head.dtype or v % MULTIPLE == 0:
        return head.to(dtype)
    out = head.new_zeros((v + -v % MULTIPLE, c), dtype=dtype)
    out[:v] = head
    return out


@functools.cache
def compiled_slice_loss() -> SliceLoss:
    return torch.compile(slice_loss, dynamic=False)  # type: ignore[no-any-return]


def slice_loss(logits: Tensor, targets: Tensor, v: int, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses of logits [R, >= V]. With `gradient` the logits then hold its gradient, but for
    what belongs at the targets, which comes back [R, 1]: softmax - onehot, 0 where NO_LOSS and in the columns
    from V on, which stand for nothing. One pass in the memory of the logits, when it is compiled; putting
    the targets in here would make it two."""
    if logits.shape[1] > v:
        logits[:, v:] = -math.inf
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    counted = (targets != NO_LOSS)[:, None]  # [R, 1]
    index = targets.clamp(min=0)[:, None]  # [R, 1]
    log_z = wide.logsumexp(-1, keepdim=True)  # [R, 1]
    picked = log_z - wide.gather(1, index)
    loss = torch.where(counted, picked, 0).sum()
    if not gradient:
        return loss, None
    wide.sub_(log_z).exp_().mul_(counted)  # softmax
    if wide is not logits:
        logits.copy_(wide)
    return loss, picked.neg().exp_().sub_(1).mul_(counted).to(logits.dtype)
