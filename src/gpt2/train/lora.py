"""Low-rank adapters on the PyTorch GPT-2: LoRA and DoRA over any of the four linears of a block.

    adapt(model, rank=8, targets=["all"])     the four linears get A and B; everything else is frozen
    ... train: only A and B (and DoRA's magnitudes) have gradients ...
    save_adapter(path, adapter_of(model), model.config)

Why: fine-tuning moves a big matrix W [in, out] by something of small rank (Hu et al. 2021, arXiv:2106.09685).
So W stays as it is, and y = x W + b becomes

    y = x W + b + s dropout(x) A^T B^T           A [r, in], B [out, r], s = alpha / r

B begins as zeros, so that the model begins as it was. Gradients and the optimiser's state exist for r (in +
out) numbers instead of in x out. DoRA (Liu et al. 2024, arXiv:2402.09353) lets the lengths of the columns
learn apart from their directions: V = W + s A^T B^T, and y = x (V m / |V|) + b with a trained m [out],
where |V| counts as a constant for the gradient (section 4.3 there). PEFT computes the same, dropout
included; a test holds the two together.

Knows the model (gpt2.model) and how adapters travel (gpt2.weights.adapters), no loop and no data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2.errors import InvalidRequest, WeightsError
from gpt2.model.gpt2 import GPT2, Linear
from gpt2.train.tensors import whole
from gpt2.weights.adapter_config import MAX_RANK
from gpt2.weights.adapters import LINEARS, Adapter, LowRank, check_adapter

TARGETS = {
    "c_attn": ("attn.c_attn",),
    "c_proj": ("attn.c_proj", "mlp.c_proj"),
    "c_fc": ("mlp.c_fc",),
    "all": LINEARS,
    **{linear: (linear,) for linear in LINEARS},
}
"""What `targets` may name, and the linears that are meant."""


class LoRALinear(Linear):
    """A linear layer whose weight and bias are frozen, and what an adapter adds to it.

    weight [in, out] and bias [out] are the parameters of the layer that it takes the place of, under the same
    names; lora_A [r, in], lora_B [out, r] and, for DoRA, magnitude [out] are its own.
    """

    def __init__(
        self, base: Linear, *, rank: int, alpha: float, dropout: float, dora: bool, rslora: bool
    ) -> None:
        nn.Module.__init__(self)  # Linear's own would make a second weight
        inputs, outputs = base.weight.shape
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, **like))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, **like))
        self.magnitude = nn.Parameter(column_lengths(base.weight.detach())) if dora else None
        self.alpha, self.dropout, self.rslora = alpha, dropout, rslora
        self.merged = False
        self._gain: Tensor | None = None  # of a merged DoRA: what each column was multiplied by

    @property
    def rank(self) -> int:
        return int(self.lora_A.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def forward(self, x: Tensor) -> Tensor:
        base = super().forward(x)  # [..., out]
        if self.merged:
            return base
        drops = self.training and self.dropout > 0
        seen = functional.dropout(x, self.dropout) if drops else x
        low = functional.linear(functional.linear(seen, self.lora_A), self.lora_B) * self.scale
        if self.magnitude is None:
            return base + low
        gain = self.magnitude / column_lengths(self.weight + self.delta()).detach()  # [out]
        plain = base - self.bias if seen is x else seen @ self.weight
        return base + (gain - 1) * plain + gain * low

    def delta(self) -> Tensor:
        """s A^T B^T [in, out], detached; whole where several processes hold parts (all must ask)."""
        return self.scale * (whole(self.lora_B.detach()) @ whole(self.lora_A.detach())).T

    def _with_adapter(self) -> tuple[Tensor, Tensor | None]:
        """W + delta(), and of DoRA what each column was multiplied by to have its trained length."""
        changed = whole(self.weight) + self.delta()
        if self.magnitude is None:
            return changed, None
        gain = whole(self.magnitude) / column_lengths(changed)
        return changed * gain, gain

    @torch.no_grad()
    def merge(self) -> None:
        """Put the adapter into the weight."""
        if self.merged:
            return
        changed, self._gain = self._with_adapter()
        self.weight.copy_(changed)
        self.merged = True

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """[in, out], what merge() would leave; whole where several processes hold parts (all must ask)."""
        return whole(self.weight) if self.merged else self._with_adapter()[0]

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take it out again: the weight that was there, to rounding."""
        if not self.merged:
            return
        plain = self.weight if self._gain is None else self.weight / self._gain
        self.weight.copy_(plain - self.delta())
        self.merged, self._gain = False, None


def column_lengths(weight: Tensor) -> Tensor:
    """[in, out] -> [out]."""
    return torch.linalg.vector_norm(weight, dim=0)


def adapt(
    model: GPT2,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = ("c_attn",),
    dora: bool = False,
    rslora: bool = False,
    generator: torch.Generator | None = None,
) -> GPT2:
    """Freeze a model and give some of its linears an adapter that changes nothing yet. Returns the model.

    Args:
        rank: r, the inner size; the parameters of an adapter grow with it.
        alpha: what is added is scaled by alpha / rank, so that a new rank needs no new learning rate.
        dropout: of the adapter's input, while training.
        targets: any of c_attn, attn.c_proj, c_fc, mlp.c_proj; c_proj means both; all.
        dora: train the lengths of the columns apart from their directions.
        rslora: scale by alpha / sqrt(rank) instead, for large ranks (Kalajdzievski 2023, arXiv:2312.03732).
        generator: draws A; None is PyTorch's own.

    Raises InvalidRequest.
    """
    _check(rank, alpha, dropout)
    wanted = _linears(targets)
    _require_plain(model)
    model.requires_grad_(False)
    for name, layer in _linears_of(model):
        if name.split(".", 2)[2] not in wanted:
            continue
        added = LoRALinear(layer, rank=rank, alpha=alpha, dropout=dropout, dora=dora, rslora=rslora)
        bound = 1 / math.sqrt(layer.weight.shape[0])  # Kaiming's uniform with a = sqrt(5), as PEFT begins
        with torch.no_grad():
            added.lora_A.uniform_(-bound, bound, generator=generator)
        _replace(model, name, added)
    return model


def attach(model: GPT2, adapter: Adapter) -> GPT2:
    """Freeze a model and give it an adapter that was trained before. Returns the model.

    Raises WeightsError when it does not fit, InvalidRequest when the model has one.
    """
    check_adapter(adapter, model.config)
    _require_plain(model)
    model.requires_grad_(False)
    layers = dict(_linears_of(model))
    for name, module in adapter.modules.items():
        added = LoRALinear(
            layers[name], rank=module.rank, alpha=module.alpha, dropout=adapter.dropout,
            dora=module.magnitude is not None, rslora=module.rslora,
        )  # fmt: skip
        with torch.no_grad():
            added.lora_A.copy_(torch.from_numpy(np.array(module.a)))
            added.lora_B.copy_(torch.from_numpy(np.array(module.b)))
            if added.magnitude is not None and module.magnitude is not None:
                added.magnitude.copy_(torch.from_numpy(np.array(module.magnitude)))
        _replace(model, name, added)
    return model


def adapter_of(model: GPT2, *, base: str | None = None) -> Adapter:
    """The adapter of a model as it stands, float32 copies, for save_adapter(); `base` names the model that it
    belongs to. Of a sharded model every process must ask.

    Raises InvalidRequest when there is none, WeightsError for values that are not finite.
    """
    layers = dict(adapted(model))
    if not layers:
        raise InvalidRequest("the model has no adapter", hint="adapt(model)")
    modules = {
        name: LowRank(
            a=_numpy(layer.lora_A), b=_numpy(layer.lora_B), alpha=float(layer.alpha), rslora=layer.rslora,
            magnitude=None if layer.magnitude is None else _numpy(layer.magnitude),
        )
        for name, layer in layers.items()
    }  # fmt: skip
    adapter = Adapter(modules=modules, dropout=next(iter(layers.values())).dropout, base=base)
    check_adapter(adapter, model.config)
    return adapter


def adapted(model: GPT2) -> Iterator[tuple[str, LoRALinear]]:
    """The layers that have an adapter, by name: "h.0.attn.c_attn" ..."""
    for name, layer in _linears_of(model):
        if isinstance(layer, LoRALinear):
            yield name, layer


def adapter_parameters(model: GPT2) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name."""
    for name, layer in adapted(model):
        for part in ("lora_A", "lora_B", "magnitude"):
            parameter = getattr(layer, part)
            if parameter is not None:
                yield f"{name}.{part}", parameter


@torch.no_grad()
def merged_weights(model: GPT2) -> Iterator[tuple[str, Tensor]]:
    """The weights that the model would have with its adapters in them, by the names of a plain one; the model
    stays as it is. Of a sharded model they are whole, and every process must ask for all."""
    layers = dict(adapted(model))
    for name, parameter in model.named_parameters():
        module, _, part = name.rpartition(".")
        if module not in layers or part == "bias":
            yield name, whole(parameter)
        elif part == "weight":
            yield name, layers[module].merged_weight()


def merge(model: GPT2) -> None:
    """Put the adapters into the weights, so that they cost nothing. Does nothing where they are there."""
    for _, layer in adapted(model):
        layer.merge()


def unmerge(model: GPT2) -> None:
    """Take them out again; each weight is what it was, to rounding."""
    for _, layer in adapted(model):
        layer.unmerge()


def remove(model: GPT2) -> GPT2:
    """Back to plain linears: with what merge() put into the weights, or without. All can be trained again."""
    for name, layer in list(adapted(model)):
        plain = Linear.__new__(Linear)
        nn.Module.__init__(plain)
        plain.weight, plain.bias = layer.weight, layer.bias
        _replace(model, name, plain)
    model.requires_grad_(True)
    return model


def _check(rank: int, alpha: float, dropout: float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise InvalidRequest("rank", got=repr(rank), expected=f"a whole number from 1 to {MAX_RANK}")
    if not math.isfinite(alpha) or alpha == 0:
        raise InvalidRequest("alpha", got=alpha, expected="a finite number other than 0")
    if not 0 <= dropout < 1:
        raise InvalidRequest("dropout", got=dropout, expected="a number in [0, 1)")


def _linears(targets: Sequence[str]) -> set[str]:
    import difflib

    names = [targets] if isinstance(targets, str) else list(targets)
    for name in names:
        if name not in TARGETS:
            near = difflib.get_close_matches(str(name), TARGETS, n=1)
            raise InvalidRequest(
                "targets", got=repr(name), expected=" | ".join(TARGETS),
                hint=f"did you mean {near[0]!r}?" if near else None,
            )  # fmt: skip
    if not names:
        raise InvalidRequest("targets", got="none", expected="at least one of " + " | ".join(TARGETS))
    return {linear for name in names for linear in TARGETS[name]}


def _require_plain(model: GPT2) -> None:
    if any(True for _ in adapted(model)):
        raise InvalidRequest("the model has an adapter already", hint="merge(model); remove(model)")


def _linears_of(model: GPT2) -> Iterator[tuple[str, Linear]]:
    for i in range(model.config.n_layer):
        for linear in LINEARS:
            name = f"h.{i}.{linear}"
            layer = model.get_submodule(name)
            if not isinstance(layer, Linear):
                raise WeightsError(f"{name} is no linear layer", got=type(layer).__name__)
            yield name, layer


def _replace(model: GPT2, name: str, layer: Linear) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _numpy(parameter: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values = whole(parameter.detach()).float().cpu().numpy()
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = values.copy()
    return array
