"""The PyTorch model is transformers' and the engine's: logits, losses, gradients, for every config."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checkpoints
import gpt2
from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from gpt2.model import GPT2, load_model  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": 97, "n_positions": 24, "n_embd": 24, "n_layer": 3, "n_head": 4,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},
    "untied": {"tie_word_embeddings": False},
    "narrow MLP": {"n_inner": 20},
    "erf": {"activation_function": "gelu"},
    "quick": {"activation_function": "quick_gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
    "epsilon": {"layer_norm_epsilon": 1e-3},
    "one head": {"n_head": 1},
}


def pair(**variant: Any) -> tuple[Any, GPT2]:
    """transformers' model and ours with the same random weights, both float32."""
    theirs = checkpoints.random_gpt2(**{**SMALL, **variant})
    ours = GPT2(GPT2Config.from_json(theirs.config.to_dict()))
    state = {name.removeprefix("transformer."): p for name, p in theirs.named_parameters()}
    assert set(state) == {name for name, _ in ours.named_parameters()}
    ours.load_state_dict(state)
    return theirs, ours.eval()


def ids_of(batch: int, tokens: int, vocab: int = 97) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocab, (batch, tokens), generator=generator)


def mean_loss(logits: Any, ids: Any) -> Any:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(
    ("name", "dtype"),
    # transformers' upcast attention is float32 by construction
    [
        (name, dtype)
        for name in VARIANTS
        for dtype in ("float64", "float32")
        if (name, dtype) != ("upcast", "float64")
    ],
)
def test_logits_loss_and_gradients_are_those_of_transformers(name: str, dtype: str) -> None:
    theirs, ours = pair(**VARIANTS[name])
    if dtype == "float64":
        theirs, ours = theirs.double(), ours.double()
    bound = 1e-10 if dtype == "float64" else 1e-5
    ids = ids_of(3, 24)
    expected = theirs(ids).logits  # transformers' own loss is float32 whatever the model is
    logits = ours(ids)
    scale = float(expected.detach().abs().max())
    assert float((logits - expected).detach().abs().max()) <= bound * scale
    loss, expected_loss = mean_loss(logits, ids), mean_loss(expected, ids)
    assert float((loss - expected_loss).detach().abs()) <= bound * float(expected_loss.detach())
    loss.backward()
    expected_loss.backward()
    gradients = dict(ours.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for parameter_name, parameter in theirs.named_parameters():
        mine = gradients[parameter_name.removeprefix("transformer.")].grad
        assert float((mine - parameter.grad).abs().max()) <= bound * largest, parameter_name


@pytest.mark.parametrize("tokens", [1, 2, 7, 24])
def test_any_length_and_a_length_too_many(tokens: int) -> None:
    theirs, ours = pair()
    ids = ids_of(2, tokens)
    with torch.no_grad():
        np.testing.assert_allclose(ours(ids).numpy(), theirs(ids).logits.numpy(), atol=1e-4)
        with pytest.raises(InvalidRequest, match="25 tokens"):
            ours(ids_of(1, 25))


def test_it_is_the_engine(tmp_path: Path) -> None:
    theirs, ours = pair()
    checkpoints.saved(theirs, tmp_path)
    engine = gpt2.load(tmp_path, threads=1)
    loaded = load_model(tmp_path, dtype=torch.float64)
    ids = ids_of(1, 24)
    exact = loaded(ids)[0].detach().numpy()
    bound = checkpoints.logit_error_bound(engine.config, 24, float(np.abs(exact).max()))
    checkpoints.assert_close(engine.logits(ids[0].tolist()), exact, bound, "tv")
    for (name, mine), (_, read) in zip(ours.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(mine.double(), read), name


def test_the_bundled_model_is_read_and_equals_the_engine() -> None:
    engine, model = gpt2.load(threads=1), load_model(dtype=torch.float64)
    ids = engine.tokenizer.encode("The old man looked at the sea. It was")
    exact = model(torch.tensor([ids]))[0].detach().numpy()
    bound = checkpoints.logit_error_bound(engine.config, len(ids), float(np.abs(exact).max()))
    if engine.weights == "bfloat16":
        # The engine may round activations to bfloat16 where the machine multiplies those.
        bound = max(
            bound, checkpoints.logit_error_bound(engine.config, len(ids), float(np.abs(exact).max()), True)
        )
    checkpoints.assert_close(engine.logits(ids), exact, bound, "tv")


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    from gpt2.cards import quantise_directory
    from gpt2.weights.scheme import Scheme

    theirs, _ = pair()
    source = checkpoints.saved(theirs, tmp_path / "float")
    quantise_directory(source, tmp_path / "int8", Scheme(method="int8"))
    with pytest.raises(InvalidRequest, match="quantised"):
        load_model(tmp_path / "int8")


def test_fresh_parameters_have_the_published_deviations() -> None:
    config = GPT2Config(vocab_size=500, n_positions=64, n_embd=128, n_layer=4, n_head=4)
    torch.manual_seed(0)
    for name, parameter in GPT2(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            expected = 0.02 / math.sqrt(8) if name.endswith("c_proj.weight") else 0.02
            # The deviation of n normal numbers is off by about 1 / sqrt(2 n) of itself; five times that.
            assert abs(float(parameter.detach().std()) / expected - 1) < 5 / math.sqrt(
                2 * parameter.numel()
            ), name


# Looking inside.


def test_every_point_has_its_name_and_shape_and_hooks_change_nothing_by_looking() -> None:
    _, ours = pair()
    ours = ours.double()
    ids = ids_of(2, 7)
    seen: dict[str, tuple[int, ...]] = {}

    def look(name: str, x: Any) -> Any:
        assert name not in seen, f"{name} came twice"
        seen[name] = tuple(x.shape)
        return x

    hooked = ours(ids, hook=look)
    assert float((hooked - ours(ids)).detach().abs().max()) <= 1e-12 * float(hooked.detach().abs().max())
    b, t, c, h, d, inner = 2, 7, 24, 4, 6, 96
    block = {
        "hook_resid_pre": (b, t, c), "hook_resid_mid": (b, t, c), "hook_resid_post": (b, t, c),
        "hook_attn_out": (b, t, c), "hook_mlp_out": (b, t, c),
        "ln1.hook_scale": (b, t, 1), "ln1.hook_normalized": (b, t, c),
        "ln2.hook_scale": (b, t, 1), "ln2.hook_normalized": (b, t, c),
        "attn.hook_q": (b, t, h, d), "attn.hook_k": (b, t, h, d), "attn.hook_v": (b, t, h, d),
        "attn.hook_z": (b, t, h, d), "attn.hook_attn_scores": (b, h, t, t), "attn.hook_pattern": (b, h, t, t),
        "mlp.hook_pre": (b, t, inner), "mlp.hook_post": (b, t, inner),
    }  # fmt: skip
    expected = {f"blocks.{i}.{name}": shape for i in range(3) for name, shape in block.items()}
    expected |= {"hook_embed": (b, t, c), "hook_pos_embed": (t, c)}
    expected |= {"ln_final.hook_scale": (b, t, 1), "ln_final.hook_normalized": (b, t, c)}
    assert seen == expected


def test_what_hooks_see_is_what_transformers_shows() -> None:
    theirs, ours = pair()
    theirs, ours = theirs.double(), ours.double()
    ids = ids_of(2, 9)
    seen: dict[str, Any] = {}

    def keep(name: str, x: Any) -> Any:
        seen[name] = x.detach()
        return x

    with torch.no_grad():
        ours(ids, hook=keep)
        expected = theirs(ids, output_hidden_states=True, output_attentions=True)
    for i in range(3):
        torch.testing.assert_close(seen[f"blocks.{i}.hook_resid_pre"], expected.hidden_states[i])
        torch.testing.assert_close(seen[f"blocks.{i}.attn.hook_pattern"], expected.attentions[i])


def test_a_hook_that_changes_a_value_changes_what_follows() -> None:
    theirs, ours = pair()
    theirs, ours = theirs.double(), ours.double()
    ids = ids_of(1, 9)

    def without_attention(name: str, x: Any) -> Any:
        return torch.zeros_like(x) if name == "blocks.1.hook_attn_out" else x

    ablated = copy.deepcopy(theirs)
    with torch.no_grad():
        ablated.transformer.h[1].attn.c_proj.weight.zero_()
        ablated.transformer.h[1].attn.c_proj.bias.zero_()
        torch.testing.assert_close(ours(ids, hook=without_attention), ablated(ids).logits)


# Training.


def test_documents_in_one_row_do_not_see_each_other() -> None:
    _, ours = pair()
    ours = ours.double()
    first, second = ids_of(1, 9), ids_of(1, 13).flip(1)
    row = torch.cat([first, second], 1)
    documents = torch.tensor([[0] * 9 + [1] * 13])
    positions = torch.tensor([[*range(9), *range(13)]])
    with torch.no_grad():
        together = ours(row, positions=positions, documents=documents)
        torch.testing.assert_close(together[:, :9], ours(first))
        torch.testing.assert_close(together[:, 9:], ours(second))
        assert not torch.allclose(ours(row, positions=positions)[:, 9:], ours(second))


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    _, ours = pair()
    ours = ours.double().train()
    ids = ids_of(2, 20)
    gradients = []
    for checkpointed in (False, True):
        ours.activation_checkpointing = checkpointed
        ours.zero_grad()
        mean_loss(ours(ids), ids).backward()
        gradients.append([p.grad.clone() for p in ours.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_dropout_acts_in_training_alone_and_is_the_seeds() -> None:
    _, ours = pair(embd_pdrop=0.2, attn_pdrop=0.2, resid_pdrop=0.2)
    ids = ids_of(2, 20)
    with torch.no_grad():
        assert torch.equal(ours(ids), ours(ids))
        ours.train()
        outputs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(ours(ids))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
