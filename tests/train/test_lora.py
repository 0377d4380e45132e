"""LoRA and DoRA on the PyTorch model: what PEFT computes, to the gradient; merged, taken out, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import peft_model, random_adapter, saved_peft
from checkpoints import random_gpt2, saved
from gpt2 import errors
from gpt2.config import GPT2Config
from gpt2.weights.adapters import read_adapter, save_adapter

torch = pytest.importorskip("torch")

from gpt2.model import GPT2, load_model  # noqa: E402
from gpt2.train.lora import (  # noqa: E402
    adapt,
    adapted,
    adapter_of,
    adapter_parameters,
    attach,
    merge,
    remove,
    unmerge,
)

SHAPE: dict[str, Any] = {
    "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 20, "vocab_size": 37,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip
CONFIG = GPT2Config(**SHAPE)
IDS = torch.arange(2 * 17).reshape(2, 17) * 5 % 37


def loss_of(logits: Any) -> Any:
    """Of the next token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 37), IDS[:, 1:].reshape(-1))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": ["c_attn"]},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True},
        {"target_modules": ["mlp.c_proj"], "use_dora": True, "r": 1},
    ],
    ids=["lora", "rslora", "dora", "dora of one"],
)
def test_loss_and_gradients_are_pefts(how: dict[str, Any], dropout: float, tmp_path: Path) -> None:
    base = random_gpt2(2, **SHAPE)
    folder = saved(base, tmp_path / "base")
    theirs = peft_model(base, 4, lora_dropout=dropout, **how)
    adapter = read_adapter(saved_peft(theirs, tmp_path / "adapter"), CONFIG)
    ours = attach(load_model(folder, dtype=torch.float64), adapter).train()
    theirs = theirs.double().train()
    torch.manual_seed(11)  # the same masks: one draw for each adapted layer, in the same order
    expected = loss_of(theirs(IDS).logits)
    expected.backward()
    torch.manual_seed(11)
    got = loss_of(ours(IDS))
    got.backward()
    assert abs(got.item() - expected.item()) < 1e-12
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    names = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"}
    count = 0
    for name, parameter in adapter_parameters(ours):
        module, _, part = name.rpartition(".")
        key = names.get(part, "lora_magnitude_vector.default.weight")
        grad = wanted[f"base_model.model.transformer.{module}.{key}"]
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-10)
        count += 1
    assert count == len(wanted)
    assert all(p.grad is None for n, p in ours.named_parameters() if n not in dict(adapter_parameters(ours)))


@pytest.mark.parametrize("dora", [False, True])
def test_a_fresh_adapter_changes_nothing_and_trains_little(dora: bool) -> None:
    plain = GPT2(CONFIG).double().eval()
    with torch.no_grad():
        expected = plain(IDS)
    names = {name for name, _ in plain.named_parameters()}
    model = adapt(plain, rank=4, targets=["all"], dora=dora, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-12)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in adapter_parameters(model)}
    assert names <= {name for name, _ in model.named_parameters()}  # the base keeps its names
    sizes = {"attn.c_attn": (24, 72), "attn.c_proj": (24, 24), "mlp.c_fc": (24, 96), "mlp.c_proj": (96, 24)}
    each = sum(4 * (i + o) + (o if dora else 0) for i, o in sizes.values())
    assert sum(p.numel() for _, p in adapter_parameters(model)) == CONFIG.n_layer * each
    assert adapter_of(model).n_params == CONFIG.n_layer * each
    a = next(layer for _, layer in adapted(model)).lora_A
    assert 0.9 * 24**-0.5 < a.abs().max() <= 24**-0.5  # Kaiming's uniform


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_merged_is_the_same_and_unmerged_is_what_was(dora: bool, dtype: str) -> None:
    torch.manual_seed(0)
    model = attach(GPT2(CONFIG).to(getattr(torch, dtype)).eval(), random_adapter(CONFIG, 3, dora=dora))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    u = torch.finfo(getattr(torch, dtype)).eps
    with torch.no_grad():
        expected = model(IDS)
        for _ in range(2):
            merge(model)
            merge(model)  # a second time changes nothing
            torch.testing.assert_close(model(IDS), expected, rtol=0, atol=2e3 * u)
            assert any((p != before[name]).any() for name, p in model.named_parameters())
            unmerge(model)
            unmerge(model)
        for name, parameter in model.named_parameters():  # two additions and two products, twice
            bound = 40 * u * max(1.0, float(before[name].abs().max()))
            torch.testing.assert_close(parameter, before[name], rtol=0, atol=bound)
        merge(model)
        plain = remove(model)
        assert list(adapted(plain)) == []
        torch.testing.assert_close(plain(IDS), expected, rtol=0, atol=2e3 * u)
    assert all(p.requires_grad for p in plain.parameters())
    assert {name for name, _ in plain.named_parameters()} == {n for n, _ in GPT2(CONFIG).named_parameters()}


@pytest.mark.parametrize("dora", [False, True])
def test_training_lowers_the_loss_and_peft_goes_on_with_it(dora: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = random_gpt2(2, **SHAPE)
    model = load_model(saved(base, tmp_path / "base"))
    model = adapt(model, rank=4, alpha=8, targets=["c_attn", "mlp.c_fc"], dora=dora)
    model.activation_checkpointing = True
    model.train()
    optimiser = torch.optim.AdamW([p for _, p in adapter_parameters(model)], lr=2e-2)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = loss_of(model(IDS))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    save_adapter(tmp_path / "adapter", adapter_of(model.eval(), base="base"), CONFIG)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    again = attach(load_model(tmp_path / "base"), read_adapter(tmp_path / "adapter", CONFIG))
    with torch.no_grad():
        assert torch.equal(again(IDS), model(IDS))
        torch.testing.assert_close(theirs(IDS).logits, model(IDS), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank"), ({"rank": True}, "rank"), ({"rank": 1 << 20}, "rank"),
        ({"alpha": float("nan")}, "alpha"), ({"alpha": 0}, "alpha"),
        ({"dropout": 1.0}, "dropout"), ({"dropout": -0.1}, "dropout"),
        ({"targets": []}, "at least one"), ({"targets": ["c_atn"]}, "did you mean 'c_attn'"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        adapt(GPT2(CONFIG), **options)


def test_two_adapters_or_none_are_refused() -> None:
    model = GPT2(CONFIG)
    with pytest.raises(errors.InvalidRequest, match="no adapter"):
        adapter_of(model)
    adapt(model, targets="c_proj")
    assert {name.split(".", 2)[2] for name, _ in adapted(model)} == {"attn.c_proj", "mlp.c_proj"}
    for again in (lambda: adapt(model), lambda: attach(model, random_adapter(CONFIG))):
        with pytest.raises(errors.InvalidRequest, match="already"):
            again()
    other = GPT2Config(**SHAPE | {"n_embd": 12})
    with pytest.raises(errors.WeightsError, match="does not fit"):
        attach(GPT2(other), random_adapter(CONFIG))
    with torch.no_grad():
        next(iter(adapter_parameters(model)))[1].fill_(np.nan)
    with pytest.raises(errors.WeightsError, match="not finite"):
        adapter_of(model)
