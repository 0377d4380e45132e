"""Attention in blocks is scaled_dot_product_attention: value and gradients, causal or among documents. And
compiled blocks of the model are the model, and are compiled once for all of them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gpt2.config import GPT2Config  # noqa: E402
from gpt2.model import GPT2  # noqa: E402
from gpt2.model.attention import BLOCK, attention, faster_in_blocks  # noqa: E402
from gpt2.model.gpt2 import same_document  # noqa: E402


def case(t: int, dtype: Any, b: int = 2, h: int = 3, d: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(t)
    return [torch.randn(b, h, t, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


def documents(t: int, b: int = 2) -> Any:
    generator = torch.Generator().manual_seed(t)
    return same_document((torch.rand(b, t, generator=generator) < 0.1).cumsum(1))


def value_and_gradients(compute: Any, q: Any, k: Any, v: Any, toward: Any) -> list[Any]:
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    y = compute(*leaves)
    y.backward(toward)
    return [y.detach(), *(x.grad for x in leaves)]


@pytest.fixture
def compiler() -> Any:
    from machine import need
    from native_builds import tool

    need(tool("g++"), "torch.compile needs a C++ compiler: apt-get install g++")
    torch._dynamo.reset()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize("t", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 300])
def test_value_and_gradients_are_pytorchs(t: int, masked: bool) -> None:
    tensors = case(t, torch.float64)
    allowed = documents(t) if masked else None
    mine = value_and_gradients(lambda q, k, v: attention(q, k, v, allowed, 0.3), *tensors)
    theirs = value_and_gradients(
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=allowed is None, scale=0.3
        ),
        *tensors,
    )
    for a, b in zip(mine, theirs, strict=True):
        assert float((a - b).abs().max()) <= 1e-12 * max(1.0, float(b.abs().max()))


def test_bfloat16_is_as_near_to_the_truth_as_pytorchs() -> None:
    """float32 scores and sums; what is rounded to bfloat16 (2^-9) is what PyTorch rounds, too."""
    tensors = case(300, torch.bfloat16, d=64)
    exact = value_and_gradients(
        lambda q, k, v: attention(q, k, v, None, 0.125), *(x.double() for x in tensors)
    )
    mine = value_and_gradients(lambda q, k, v: attention(q, k, v, None, 0.125), *tensors)
    theirs = value_and_gradients(
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=0.125
        ),
        *tensors,
    )
    for a, b, truth in zip(mine, theirs, exact, strict=True):
        scale = float(truth.abs().max())
        off, their_off = (float((x.double() - truth).abs().max()) / scale for x in (a, b))
        assert off <= max(2.0**-8, 2 * their_off)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_large_scores_stay_exact_under_autocast(compiled: bool, compiler: Any) -> None:
    """Scores of some hundreds, which bfloat16 knows to 1: a pattern from rounded ones is another pattern, and
    gradients that meet it with exact ones grow without bound."""
    q, k, v, toward = case(2 * BLOCK, torch.bfloat16, d=64)
    q, k = 6 * q, 6 * k
    exact = value_and_gradients(
        lambda *x: attention(*x, None, 0.125), *(x.double() for x in (q, k, v, toward))
    )
    assert float((q.double() @ k.double().mT).abs().max()) * 0.125 > 100
    compute = torch.compile(attention, dynamic=False) if compiled else attention

    def under_autocast(*x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return compute(*x, None, 0.125)

    for a, truth in zip(value_and_gradients(under_autocast, q, k, v, toward), exact, strict=True):
        assert float((a.double() - truth).abs().max()) <= 2.0**-7 * float(truth.abs().max())


def test_only_where_it_is_faster() -> None:
    q = torch.zeros(1, 1, 2, 2)
    assert faster_in_blocks(q.bfloat16(), 0.0)
    assert not faster_in_blocks(q.bfloat16(), 0.1)  # there is no dropout in it
    assert not faster_in_blocks(q, 0.0)


@pytest.mark.parametrize("packed", [False, True], ids=["causal", "documents"])
def test_compiled_blocks_are_the_model_and_are_compiled_once(packed: bool, compiler: Any) -> None:
    """More blocks than PyTorch would compile one by one (8). bfloat16 has its attention in blocks."""
    config = GPT2Config(
        vocab_size=50, n_positions=2 * BLOCK, n_embd=32, n_head=2, n_layer=10,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2(config).train()
    ids = torch.randint(0, 50, (2, 2 * BLOCK))
    how = {"documents": (torch.rand(2, 2 * BLOCK) < 0.02).cumsum(1)} if packed else {}

    def run() -> tuple[Any, Any]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.hidden(ids, **how)
        hidden.float().square().mean().backward()
        return hidden.detach().float(), model.h[0].attn.c_attn.weight.grad.clone()

    plain = run()
    compiler.clear()
    for block in model.h:
        block.compile(dynamic=False)
    fast = run()
    assert compiler["stats"]["unique_graphs"] == 1
    for a, b in zip(fast, plain, strict=True):  # two roundings of bfloat16 in each of ten blocks
        assert float((a - b).abs().max()) <= 0.05 * float(b.abs().max())
    again = run()
    assert all(torch.equal(a, b) for a, b in zip(fast, again, strict=True))
