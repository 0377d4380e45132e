"""Who is decayed, who is moved by what; AdamW and Muon against PyTorch's and transformers' own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gpt2.errors import CheckpointError, InvalidRequest  # noqa: E402
from gpt2.train.optimizer import Muon, Optimizers, is_decayed  # noqa: E402
from gpt2.train.settings import Settings  # noqa: E402
from train import runs  # noqa: E402


def settings(**given: Any) -> Settings:
    return Settings.of("finetune", lr=1e-2, weight_decay=0.1, **given)


def with_gradients(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_the_groups_are_those_of_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.trainer_pt_utils import get_parameter_names

    theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=4))
    names = get_parameter_names(theirs, [torch.nn.LayerNorm], ["bias", "layernorm", "rmsnorm"])
    decayed = {name.removeprefix("transformer.") for name in names} - {"lm_head.weight"}  # tied: it is wte
    model = runs.tiny()
    assert {name for name, p in model.named_parameters() if is_decayed(name, p)} == decayed


def test_adamw_is_pytorchs() -> None:
    ours, theirs = runs.tiny(), runs.tiny()
    optimizers = Optimizers(ours.named_parameters(), settings(decay_positions=False))
    named = dict(theirs.named_parameters())
    free = [n for n, p in named.items() if p.ndim < 2 or n == "wpe.weight"]
    reference = torch.optim.AdamW(
        [
            {"params": [p for n, p in named.items() if n not in free], "weight_decay": 0.1},
            {"params": [named[n] for n in free], "weight_decay": 0.0},
        ],
        lr=1e-2, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False,
    )  # fmt: skip
    for step in range(20):
        with_gradients(ours, step)
        with_gradients(theirs, step)
        share = 1 - step / 20
        optimizers.set_rate(share)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * share
        optimizers.step()
        reference.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7, msg=name)


def test_muon_is_pytorchs_on_transposed_matrices() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no torch.optim.Muon")
    generator = torch.Generator().manual_seed(3)
    for inputs, outputs in ((16, 16), (16, 64), (64, 16)):
        matrix = torch.randn(inputs, outputs, generator=generator)
        ours, theirs = torch.nn.Parameter(matrix.clone()), torch.nn.Parameter(matrix.T.clone())
        mine = Muon([("h.0.mlp.c_fc.weight", ours)], lr=0.02, weight_decay=0.1)
        reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
        for _ in range(5):
            gradient = torch.randn(inputs, outputs, generator=generator)
            ours.grad, theirs.grad = gradient, gradient.T.contiguous()
            mine.step()
            reference.step()
        # PyTorch iterates in bfloat16: five steps of 0.02 x 2^-8 each, with room for five iterations that
        # carry a difference on.
        assert float((ours - theirs.T).detach().abs().max()) <= 5 * 0.02 * 2**-8 * 5


def test_muon_sees_three_matrices_in_c_attn() -> None:
    generator = torch.Generator().manual_seed(4)
    whole = torch.nn.Parameter(torch.randn(8, 24, generator=generator))
    parts = [torch.nn.Parameter(part.clone()) for part in whole.detach().chunk(3, 1)]
    gradient = torch.randn(8, 24, generator=generator)
    whole.grad = gradient
    for part, g in zip(parts, gradient.chunk(3, 1), strict=True):
        part.grad = g.clone()
    Muon([("h.0.attn.c_attn.weight", whole)], lr=0.1).step()
    Muon([(f"h.0.attn.c_proj.{i}", p) for i, p in enumerate(parts)], lr=0.1).step()
    torch.testing.assert_close(whole, torch.cat(parts, 1))


def test_with_muon_the_rest_is_adamws() -> None:
    model = runs.tiny()
    optimizers = Optimizers(model.named_parameters(), settings(optimizer="muon", muon_lr=0.5))
    with_gradients(model, 1)
    optimizers.step()
    keys = set(optimizers.state())
    assert "momentum:h.1.mlp.c_fc.weight" in keys
    assert "exp_avg:wte.weight" in keys
    assert "exp_avg:h.0.ln_1.bias" in keys
    assert not any(label.startswith("exp_avg") and "c_fc.weight" in label for label in keys)
    optimizers.set_rate(0.5)
    assert sorted({group["lr"] for group in optimizers.groups()}) == [0.005, 0.25]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_taken_over_goes_on_with_the_same_bits(kind: str) -> None:
    models = runs.tiny(), runs.tiny()
    first, second = (Optimizers(m.named_parameters(), settings(optimizer=kind)) for m in models)
    for step in range(3):
        with_gradients(models[0], step)
        first.step()
    models[1].load_state_dict(models[0].state_dict())
    second.load(first.state())
    for step in range(3, 6):
        for model, optimizers in zip(models, (first, second), strict=True):
            with_gradients(model, step)
            optimizers.step()
    assert runs.weights(models[0]) == runs.weights(models[1])


def test_what_fits_nothing_is_refused() -> None:
    model = runs.tiny()
    optimizers = Optimizers(model.named_parameters(), settings())
    with pytest.raises(CheckpointError, match="nowhere"):
        optimizers.load({"exp_avg:nowhere": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"\[3\]"):
        optimizers.load({"exp_avg:wte.weight": torch.zeros(3)})
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(InvalidRequest, match="no parameter"):
        Optimizers(model.named_parameters(), settings())
