"""The loss in slices is PyTorch's cross-entropy of the whole logits: value and gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gpt2.train.loss import NO_LOSS, compiled_slice_loss, cross_entropy, slice_loss  # noqa: E402
from machine import need  # noqa: E402
from native_builds import tool  # noqa: E402


def case(n: int, dtype: object, v: int = 37, c: int = 8) -> tuple[object, object, object]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, c, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(v, c, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, v, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < 0.3] = NO_LOSS
    return hidden, head, targets


def whole(hidden: object, head: object, targets: object) -> object:
    logits = torch.nn.functional.linear(hidden, head)
    return torch.nn.functional.cross_entropy(
        logits.float() if logits.dtype != torch.float64 else logits, targets, reduction="sum"
    )


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_value_and_gradients(n: int, rows: int, dtype: object, bound: float) -> None:
    hidden, head, targets = case(n, dtype)
    loss = cross_entropy(hidden, head, targets, rows=rows)
    (loss * 0.37).backward()
    gradients = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    expected = whole(hidden, head, targets)
    (expected * 0.37).backward()
    assert loss.dtype == dtype
    assert float(abs(loss - expected).detach()) <= bound * max(1.0, float(expected.detach()))
    for mine, theirs in zip(gradients, (hidden.grad, head.grad), strict=True):
        assert mine.dtype == theirs.dtype
        assert float((mine - theirs).abs().max()) <= bound


def test_a_second_way_back_is_refused_and_not_wrong() -> None:
    """The gradient of the head is scaled where it lies."""
    hidden, head, targets = case(9, torch.float64)
    loss = cross_entropy(hidden, head, targets, rows=4)
    (loss * 2).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified"):
        (loss * 2).backward()


def test_only_the_gradients_that_are_wanted() -> None:
    hidden, head, targets = case(20, torch.float64)
    head.requires_grad_(False)
    cross_entropy(hidden, head, targets, rows=8).backward()
    assert head.grad is None
    alone = hidden.grad.clone()
    hidden.grad = None
    head.requires_grad_(True)
    cross_entropy(hidden, head, targets, rows=8).backward()
    assert torch.equal(alone, hidden.grad)
    hidden.requires_grad_(False)
    cross_entropy(hidden, head, targets, rows=8).backward()
    with torch.no_grad():
        assert cross_entropy(hidden, head, targets).requires_grad is False


def test_rows_without_a_target_add_nothing() -> None:
    hidden, head, targets = case(12, torch.float64)
    targets[:] = NO_LOSS
    loss = cross_entropy(hidden, head, targets, rows=5)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not hidden.grad.any()
    assert not head.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_what_autocast_does_to_the_whole(dtype: object) -> None:
    hidden, head, targets = case(65, torch.float32)
    with torch.autocast("cpu", dtype):
        loss = cross_entropy(hidden, head, targets, rows=16)
    loss.backward()
    gradients = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    with torch.autocast("cpu", dtype):
        expected = whole(hidden, head, targets)
    expected.backward()
    u = torch.finfo(dtype).eps  # of each rounded product: the logits, the softmax, the two gradients
    assert float((loss - expected).detach().abs()) <= u * float(expected.detach())
    for mine, theirs in zip(gradients, (hidden.grad, head.grad), strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).abs().max()) <= 4 * u * float(theirs.abs().max())


def test_the_logits_never_exist_whole() -> None:
    """Each slice makes R x V numbers; what is kept for the backward pass is [N, C] and [V, C]."""
    hidden, head, targets = case(512, torch.float32, v=1000)
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t, lambda t: t):
        loss = cross_entropy(hidden, head, targets, rows=32)
    loss.backward()
    assert max(seen) <= 1000 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [16, 50])
def test_a_strip_of_the_vocabulary_at_a_time(
    dtype: object, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of the head, 203 rows of it, 64 at a time."""
    hidden, head, targets = case(50, torch.float32, v=203)
    gradients = []
    for strip in (8192, 64):
        monkeypatch.setattr("gpt2.train.loss.STRIP", strip)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = cross_entropy(hidden, head, targets, rows=rows)
        gradients.append(torch.autograd.grad(loss, head)[0])
    whole, strips = gradients
    bound = 2.0**-20 if dtype == torch.float32 else 2.0**-7
    assert float((whole - strips).abs().max()) <= bound * float(whole.abs().max())


def gradient_of(slice_loss: object, logits: object, targets: object, v: int) -> tuple[object, object]:
    """The loss, and the gradient put together as SlicedCrossEntropy does it."""
    loss, at_target = slice_loss(logits, targets, v, True)
    return loss, logits.scatter_(1, targets.clamp(min=0)[:, None], at_target)


@pytest.mark.parametrize("v", [203, 190])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_slices_are_the_slices(dtype: object, v: int) -> None:
    """Also where the last columns stand for nothing."""
    need(tool("g++"), "torch.compile needs a C++ compiler: apt-get install g++")
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(33, 203, generator=generator).mul(3).to(dtype)
    targets = torch.randint(0, v, (33,), generator=generator)
    targets[::5] = NO_LOSS
    plain, fast = (gradient_of(f, logits.clone(), targets, v) for f in (slice_loss, compiled_slice_loss()))
    assert not any(bool(grad[:, v:].any()) for _, grad in (plain, fast))
    whole = torch.nn.functional.cross_entropy(logits[:, :v].float(), targets, reduction="sum")
    assert float(abs(plain[0] - whole)) <= 1e-5 * float(whole)
    assert float(abs(plain[0] - fast[0])) <= 1e-6 * float(plain[0])
    # exp(x - log Z) of float32 numbers of this size; where it is narrowed, one rounding of a number below 1.
    bound = 4 * 2.0**-24 * (float(logits.abs().max()) + 1) + (0.0 if dtype == torch.float32 else 2.0**-8)
    assert float((plain[1] - fast[1]).abs().max()) <= bound
    loss, none = compiled_slice_loss()(logits.clone(), targets, v, False)
    assert none is None
    assert float(abs(loss - plain[0])) <= 1e-6 * float(plain[0])
