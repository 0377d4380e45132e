"""Who moves which parameter, and how: AdamW for everything, or Muon for the matrices of the blocks.

    AdamW   Loshchilov & Hutter, arXiv:1711.05101; PyTorch's own, with its groups made here: weight decay for
            matrices (embeddings among them), none for biases and LayerNorms
    Muon    K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024): for
            a matrix whose momentum is M = U S V^T the step is U V^T, by five Newton-Schulz iterations. The
            query, key and value parts of c_attn are three matrices to it; the rest is moved by AdamW

`Optimizers` holds them together: one rate, one step, one dictionary of tensors by the parameters' names for
the checkpoint. It knows nothing of losses, data or files.

Matrices are [in, out] here, as GPT-2's files have them (gpt2.model): rows are inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.errors import CheckpointError, InvalidRequest
from gpt2.train.settings import PEAK_AT_768, Settings
from gpt2.train.tensors import like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic: steepest at zero among those that keep singular values near 1 (Jordan,
2024)."""

Named = list[tuple[str, nn.Parameter]]


def is_decayed(name: str, parameter: Tensor, decay_positions: bool = True) -> bool:
    """Whether weight decay acts: on matrices, never on biases and LayerNorms; on wpe by choice."""
    return parameter.ndim >= 2 and (decay_positions or name != "wpe.weight")


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves it: a matrix within a block."""
    return parameter.ndim == 2 and name.startswith("h.")


class Optimizers:
    """The optimisers of a run.

        optimizers = Optimizers(model.named_parameters(), settings)
        optimizers.set_rate(schedule.share(step))
        optimizers.step()

    Parameters that need no gradient are left alone. Raises InvalidRequest where none needs one.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], settings: Settings) -> None:
        self.named: Named = [(name, p) for name, p in named if p.requires_grad]
        if not self.named:
            raise InvalidRequest("no parameter is to be trained")
        by_muon: Named = []
        if settings.optimizer == "muon":
            if settings.shard:
                raise InvalidRequest(
                    "shard", got="optimizer = 'muon'", expected="adamw", likely="Muon needs whole matrices"
                )
            by_muon = [(name, p) for name, p in self.named if is_hidden(name, p)]
        mine = {name for name, _ in by_muon}
        self.all: list[torch.optim.Optimizer] = []
        if rest := [(name, p) for name, p in self.named if name not in mine]:
            self.all.append(adamw(rest, settings))
        if by_muon:
            self.all.append(Muon(by_muon, lr=settings.muon_lr, weight_decay=settings.weight_decay))
        for group in self.groups():
            group["peak"] = group["lr"]

    def groups(self) -> Iterable[dict[str, Any]]:
        for optimizer in self.all:
            yield from optimizer.param_groups

    def set_rate(self, share: float) -> None:
        """Every group's rate: this share of its peak."""
        for group in self.groups():
            group["lr"] = group["peak"] * share

    def step(self) -> None:
        for optimizer in self.all:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, as "KEY:PARAMETER". Whole tensors where sharded."""
        out = {}
        for name, parameter in self.named:
            for key, value in self._of(parameter).items():
                out[f"{key}:{name}"] = whole(value)
        return out

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what state() gave. Raises CheckpointError where names or shapes do not fit."""
        names = dict(self.named)
        for label, value in tensors.items():
            key, _, name = label.partition(":")
            parameter = names.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise CheckpointError(
                    f"the optimiser's {label!r} fits no parameter", got=f"shape {list(value.shape)}"
                )
            owner = next(
                o for o in self.all if any(p is parameter for g in o.param_groups for p in g["params"])
            )
            device = "cpu" if value.ndim == 0 and not parameter.is_cuda else parameter.device
            owner.state[parameter][key] = (
                like(value.to(device), parameter) if value.ndim else value.to(device).clone()
            )

    def _of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        for optimizer in self.all:
            if parameter in optimizer.state:
                return {k: v for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor)}
        return {}


def adamw(named: Named, settings: Settings) -> torch.optim.AdamW:
    """PyTorch's AdamW with the two groups: decayed, and not."""
    decayed = [p for name, p in named if is_decayed(name, p, settings.decay_positions)]
    others = [p for name, p in named if not is_decayed(name, p, settings.decay_positions)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=PEAK_AT_768[settings.recipe] if settings.lr is None else settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=not settings.shard,  # one pass over memory instead of a dozen; not for parts of tensors
    )


class Muon(torch.optim.Optimizer):
    """Steps matrices [in, out] along their orthogonalised Nesterov momentum; decoupled weight decay."""

    def __init__(self, named: Named, lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        self._parts = {id(p): 3 if name.endswith("c_attn.weight") else 1 for name, p in named}
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([p for _, p in named], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])  # Nesterov: look one step ahead
                p.mul_(1 - group["lr"] * group["weight_decay"])
                parts = self._parts[id(p)]
                for part, u in zip(p.chunk(parts, 1), update.chunk(parts, 1), strict=True):
                    inputs, outputs = part.shape
                    scale = max(1.0, outputs / inputs) ** 0.5
                    part.add_(orthogonalise(u), alpha=-group["lr"] * scale)

    def matrices(self) -> Iterator[Tensor]:
        """What is orthogonalised in a step, each [in, out]."""
        for group in self.param_groups:
            for p in group["params"]:
                yield from p.chunk(self._parts[id(p)], 1)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of float32: on GPUs, with AVX-512 BF16, with AMX."""
    if device.type != "cpu":
        return True
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not public; older PyTorch lacks them
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def orthogonalise(m: Tensor) -> Tensor:
    """[R, C] -> the same singular vectors, with singular values moved near 1; the result has m's dtype.

    In bfloat16, as its author has it, where the device multiplies that; a processor that does not takes
    thirty times as long with it, and gets float32.
    """
    a, b, c = NEWTON_SCHULZ
    tall = m.shape[0] > m.shape[1]
    x = m.T if tall else m  # the shorter side first: its products are the smaller ones
    x = x.bfloat16() if multiplies_bfloat16(x.device) else x.float()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.T if tall else x).to(m.dtype)
