"""The loop: transformers' curve, accumulation that changes nothing, runs that go on to the bit."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gpt2.errors import LossDiverged, SettingsChanged  # noqa: E402
from gpt2.train.loop import Trainer  # noqa: E402
from gpt2.train.report import Report, read_log  # noqa: E402
from train import runs  # noqa: E402


class Losses(Report):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.held_out: list[float] = []
        self.notes: list[str] = []

    def step(self, step: int, steps: int, *, loss: float, **facts: Any) -> None:
        self.losses.append(loss)

    def evaluation(self, step: int, loss: float, *, better: bool) -> None:
        self.held_out.append(loss)

    def note(self, text: str) -> None:
        self.notes.append(text)


def losses(**given: Any) -> tuple[list[float], Trainer]:
    report = Losses()
    trainer = runs.trainer(report=report, **given)
    trainer.run()
    return report.losses, trainer


def test_it_learns_and_its_curve_is_that_of_a_plain_loop_with_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours, trainer = losses(packing="stream", max_steps=30, weight_decay=0.1, clip=0.5)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=runs.V, n_positions=32, n_layer=2, n_head=2, n_embd=16, embd_pdrop=0.0, attn_pdrop=0.0,
            resid_pdrop=0.0, bos_token_id=runs.EOS, eos_token_id=runs.EOS,
        )
    )  # fmt: skip
    start = runs.tiny().state_dict()
    model.load_state_dict(
        {f"transformer.{k}": v for k, v in start.items()} | {"lm_head.weight": start["wte.weight"]}
    )
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2, eps=1e-8
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, 30)
    theirs = []
    for step in range(30):
        batch = trainer.train.batch(step)
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        logits = model(tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        theirs.append(float(loss.detach()))
    assert ours[-1] < 0.85 * ours[0]
    assert ours == pytest.approx(theirs, abs=1e-3)  # the bar is 0.01
    assert ours[:5] == pytest.approx(theirs[:5], abs=1e-5)  # rounding alone, before steps carry it on


@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_accumulation_changes_nothing(packing: str) -> None:
    """In float64, so that a difference is the loop's and not rounding: k x b = k b far below 1e-6."""
    curves = []
    for micro in (8, 4, 2, 1):
        report = Losses()
        trainer = runs.trainer(
            model=runs.tiny().double(),
            report=report,
            batch=8,
            micro_batch=micro,
            packing=packing,
            max_steps=6,
        )
        trainer.run()
        assert trainer.train.accumulation == 8 // micro
        curves.append((report.losses, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])))
    for curve, weights in curves[1:]:
        assert curve == pytest.approx(curves[0][0], rel=1e-10)
        assert float((weights - curves[0][1]).abs().max()) <= 1e-8


def test_it_takes_a_run_that_was_left_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = runs.trainer(tmp_path / "whole", model=runs.tiny(resid_pdrop=0.1))
    end = whole.run()
    parts = runs.trainer(tmp_path / "parts", model=runs.tiny(resid_pdrop=0.1))
    for _ in range(5):
        if parts._evaluation_due():
            parts.evaluate()
        parts.step()
    parts.save()
    again = runs.trainer(tmp_path / "parts", model=runs.tiny(seed=77, resid_pdrop=0.1))
    assert again.resume()
    assert again.progress.step == 5
    torch.rand(17)  # what somebody else draws in between is of no matter
    ended = again.run()
    assert runs.weights(again.model) == runs.weights(whole.model)
    for name in ("step", "tokens", "best_loss", "best_step", "worse", "ended"):
        assert getattr(ended, name) == getattr(end, name), name
    assert not runs.trainer(tmp_path / "none").resume()


@pytest.mark.parametrize("more", [{"optimizer": "muon"}, {"precision": "float16"}, {"precision": "bfloat16"}])
def test_every_kind_of_run_goes_on_with_the_same_bits(more: dict[str, Any], tmp_path: Path) -> None:
    whole = runs.trainer(**more)
    whole.run()
    parts = runs.trainer(tmp_path, **more)
    for _ in range(4):
        parts.step()
    parts.save()
    again = runs.trainer(tmp_path, model=runs.tiny(seed=5), **more)
    again.resume()
    again.run()
    assert runs.weights(again.model) == runs.weights(whole.model)


def test_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    runs.trainer(tmp_path, max_steps=3).run()
    with pytest.raises(SettingsChanged, match=r"lr: 0\.01, now 0\.02"):
        runs.trainer(tmp_path, max_steps=3, lr=0.02).resume()
    other = runs.trainer(tmp_path, max_steps=3)
    other.facts["data"] = "e"
    with pytest.raises(SettingsChanged, match="data: d, now e"):
        other.resume()


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = runs.trainer(tmp_path, max_steps=3)
    first.run()
    again = runs.trainer(tmp_path, max_steps=3)
    again.resume()
    assert again.run().ended == "steps"
    assert runs.weights(again.model) == runs.weights(first.model)


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_the_run_goes_on(number: int, micro: int, tmp_path: Path) -> None:
    whole = runs.trainer(micro_batch=micro)
    whole.run()
    trainer = runs.trainer(tmp_path, micro_batch=micro, checkpoint_every=1000)
    batch, calls = trainer.train.batch, itertools.count()

    def disturbed(step: int, part: int = 0) -> Any:
        if next(calls) == 5 * (4 // micro) + 1:
            os.kill(os.getpid(), number)
        return batch(step, part)

    trainer.train.batch = disturbed  # type: ignore[method-assign]
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        trainer.run()
    assert signal.getsignal(number) is before
    again = runs.trainer(tmp_path, model=runs.tiny(seed=3), micro_batch=micro, checkpoint_every=1000)
    assert again.resume()
    assert again.progress.step == {4: 6, 1: 5}[micro]  # the step that the signal met is dropped
    again.run()
    assert runs.weights(again.model) == runs.weights(whole.model)


def test_a_loss_that_is_no_number_stops_before_it_harms(tmp_path: Path) -> None:
    trainer = runs.trainer(tmp_path)
    objective, calls = trainer.objective, itertools.count()

    def broken(*arrays: Any) -> Any:
        return objective(*arrays) * (float("nan") if trainer.model.training and next(calls) == 7 else 1.0)

    trainer.objective = broken  # type: ignore[assignment]
    with pytest.raises(LossDiverged, match="step 7") as error:
        trainer.run()
    assert error.value.where == "batch 7"
    assert error.value.likely == "the newest good state is the checkpoint of step 7"
    again = runs.trainer(tmp_path)
    assert again.resume()
    assert again.progress.step == 7
    whole = runs.trainer()
    whole.run()
    again.run()
    assert runs.weights(again.model) == runs.weights(whole.model)


def test_a_rate_that_is_far_too_high_is_found_out(tmp_path: Path) -> None:
    trainer = runs.trainer(
        tmp_path, lr=10.0, clip=0, warmup=0, schedule="constant", max_steps=400, weight_decay=10.0
    )
    with torch.no_grad():
        trainer.model.wte.weight.mul_(1e30)
    with pytest.raises(LossDiverged, match="no number"):
        trainer.run()


def test_it_stops_when_the_held_out_loss_rises_and_keeps_the_best(tmp_path: Path) -> None:
    report = Losses()
    trainer = runs.trainer(
        tmp_path, report=report, lr=0.03, max_steps=400, evaluate_every=10, patience=2, schedule="constant",
        checkpoint_every=50, count=3, epochs=1e3,
    )  # fmt: skip
    end = trainer.run()
    assert end.ended == "patience"
    assert end.step < 400
    assert len(report.held_out) == end.step // 10 + 1
    assert end.best_loss == min(report.held_out) == report.held_out[-3]
    trainer.load_best()
    assert trainer.evaluate() == end.best_loss


@pytest.mark.parametrize(
    "more",
    [{"precision": "bfloat16"}, {"precision": "float16"}, {"activation_checkpointing": True}],
    ids=lambda more: next(iter(more)),
)
def test_cheaper_arithmetic_has_the_same_curve(more: dict[str, Any]) -> None:
    exact, _ = losses(max_steps=10)
    cheap, _ = losses(max_steps=10, **more)
    assert cheap == pytest.approx(exact, abs=0.01 if "precision" in more else 0)


def test_samples_change_nothing_and_are_those_of_their_seed() -> None:
    from gpt2.train.sample import sample

    plain = runs.trainer(model=runs.tiny(resid_pdrop=0.1))
    plain.run()
    told: list[list[int]] = []
    looked = runs.trainer(model=runs.tiny(resid_pdrop=0.1), sample_every=3)
    looked.sampler = lambda model: told.append(sample(model, [1, 2], seed=4, count=30)) or []
    looked.run()
    assert runs.weights(looked.model) == runs.weights(plain.model)
    assert len(told) == 4
    assert all(len(ids) == 30 for ids in told)
    assert sample(looked.model, [1, 2], seed=4, count=30) == told[-1] != told[0]
    assert sample(looked.model, [1, 2], seed=5, count=30) != told[-1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_blocks_learn_the_same_and_the_same_every_time(precision: str) -> None:
    plain, _ = losses(max_steps=8, precision=precision)
    compiled, first = losses(max_steps=8, precision=precision, compile=True)
    again, second = losses(max_steps=8, precision=precision, compile=True)
    assert compiled == pytest.approx(plain, abs=1e-4 if precision == "float32" else 0.01)
    assert compiled == again
    assert runs.weights(first.model) == runs.weights(second.model)


def test_the_log_of_a_resumed_run_is_that_of_a_whole_one(tmp_path: Path) -> None:
    def told(folder: Path) -> list[Any]:
        return [(e["event"], e["step"], e["loss"]) for e in read_log(folder / "log.jsonl") if "loss" in e]

    runs.trainer(tmp_path / "a", report=Report(tmp_path / "a", log_every=1)).run()
    first = runs.trainer(tmp_path / "b", report=Report(tmp_path / "b", log_every=1))
    first.evaluate()
    for _ in range(4):
        first.step()
    first.evaluate()
    first.save()
    first.step()  # told, and then lost
    again = runs.trainer(tmp_path / "b", report=Report(tmp_path / "b", log_every=1))
    again.resume()
    again.run()
    assert told(tmp_path / "b") == told(tmp_path / "a")
    again.report.close()
    assert (tmp_path / "b" / "loss.svg").read_text().startswith("<svg")


class SignalAfter:
    """An Asked whose signal comes at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    @property
    def signal(self) -> int | None:
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else None


@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True}])
def test_a_signal_within_a_pass_gives_it_up_and_changes_nothing(more: dict[str, Any]) -> None:
    def begun() -> Trainer:
        trainer = runs.trainer(batch=4, micro_batch=2, **more)
        trainer.step()
        return trainer

    plain, trainer = begun(), begun()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    looks = 0
    while not trainer.step(SignalAfter(looks)):  # type: ignore[arg-type]
        assert trainer.progress.step == 1
        assert all(p.grad is None for p in trainer.model.parameters())
        for p, q in zip(trainer.model.parameters(), before, strict=True):
            assert torch.equal(p, q)
        looks += 1
    # two micro-batches x two blocks x forward and back, and one look between the micro-batches
    assert looks == 2 * 2 * 2 + 1
    plain.step()
    for p, q in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_signal_within_an_evaluation_gives_it_up() -> None:
    trainer = runs.trainer()
    assert trainer.evaluate(SignalAfter(2)) is None  # type: ignore[arg-type]
    assert trainer.progress.evaluated is None
    assert trainer.evaluate(SignalAfter(10_000)) is not None  # type: ignore[arg-type]
