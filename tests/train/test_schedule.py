"""The schedules are transformers', step for step, and those without a counterpart follow their formula."""

from __future__ import annotations

import pytest

from gpt2.train.schedule import Schedule
from gpt2.train.settings import Settings

N = 50


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize(
    "kind", ["cosine", "cosine to a tenth", "linear", "constant", "wsd", "wsd to a tenth"]
)
def test_it_is_transformers(kind: str, warmup: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimization = pytest.importorskip("transformers.optimization", reason="transformers is not installed")
    name, _, tenth = kind.partition(" ")
    final = 0.1 if tenth else 0.0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if name == "wsd":
        theirs = optimization.get_wsd_schedule(
            optimizer, num_warmup_steps=warmup, num_decay_steps=10, num_training_steps=N, decay_type="linear",
            min_lr_ratio=final,
        )  # fmt: skip
    elif tenth:
        theirs = optimization.get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, N, min_lr_rate=final
        )
    elif name == "constant":
        theirs = optimization.get_constant_schedule_with_warmup(optimizer, warmup)
    else:
        theirs = getattr(optimization, f"get_{name}_schedule_with_warmup")(optimizer, warmup, N)
    ours = Schedule(kind=name, steps=N, warmup=warmup, final=final, decay=10)
    for step in range(N):
        assert ours.share(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()


def test_a_warm_up_is_steps_or_a_share_and_the_end_is_kept() -> None:
    assert Schedule.of(Settings(warmup=0.1), 100).warmup == 10
    assert Schedule.of(Settings(warmup=30), 100).warmup == 30
    assert Schedule.of(Settings(warmup=300), 100).warmup == 100
    falling = Schedule.of(Settings(schedule="linear", final_lr=0.25), 100)
    assert falling.share(100) == falling.share(500) == 0.25
    assert Schedule.of(Settings(schedule="linear", warmup=5), 5).share(5) == 0.0
