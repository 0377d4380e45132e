"""The loop: batches in, better weights out, and nothing lost on the way.

A step is: the gradient of all its micro-batches, divided by the number of targets of the whole step; the norm
looked at and clipped; one step of the optimisers at the schedule's rate. Everything that a step depends on is
the state before it and its number: the data of a step, the rate and the seed of its dropout are functions of
(settings, step, micro-batch). So the state after a step is weights, the optimisers' tensors, the scaler's two
numbers and a few counters; a run that was killed goes on from there with the bits that it would have had.

It stops when the steps are done, when the held-out loss has not improved for `patience` evaluations, when it
is asked to (SIGTERM, SIGINT: the state is saved first), or when the loss is no number (the state before that
step is saved first). It knows nothing of text, of model directories or of what a run is for: see finetune.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.errors import CheckpointError, LossDiverged, SettingsChanged
from gpt2.model import GPT2
from gpt2.train.asked import Asked
from gpt2.train.checkpoint import Checkpoint, Store
from gpt2.train.data import Batches
from gpt2.train.memory import lean_graphs
from gpt2.train.objective import Arrays, Objective, on_device
from gpt2.train.optimizer import Optimizers
from gpt2.train.report import Report
from gpt2.train.schedule import Schedule
from gpt2.train.settings import Settings, differences
from gpt2.train.tensors import from_numpy, like, to_numpy, whole
from gpt2.train.world import World

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SMALLEST_SCALE = 2.0**-14
"""A float16 scale below this means that the gradients overflow whatever they are multiplied with."""


class Stopped(Exception):
    """A pass was given up because of a signal; nothing has changed."""


@dataclass(slots=True)
class Progress:
    """The counters of a run: what a checkpoint has besides tensors. Changed by the loop alone."""

    step: int = 0
    """Steps done; the next one has this number."""
    tokens: int = 0
    """Targets seen."""
    seconds: float = 0.0
    best_loss: float = math.inf
    """Of the evaluations, in nats per token."""
    best_step: int | None = None
    evaluated: int | None = None
    """The step of the last evaluation."""
    worse: int = 0
    """Evaluations since the best one."""
    ended: str | None = None
    """Why the run is over, once it is: "steps" or "patience". Then nothing more is done."""
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, "best_loss": None if math.isinf(self.best_loss) else self.best_loss}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Progress:
        best = values.get("best_loss")
        return cls(**{**values, "best_loss": math.inf if best is None else best})


class Trainer:
    """One run over prepared batches.

        trainer = Trainer(settings, model, train, validation, store=store, report=report)
        trainer.resume()
        trainer.run()

    Args:
        settings: what decides the run.
        model: a GPT2; its parameters that need a gradient are trained, in place.
        train: the batches of this process; `accumulation` of them are a step.
        validation: batches to evaluate on, or None.
        store: where checkpoints go, locked by the caller; None writes nothing (and in every process but the
            first nothing is written anyway).
        report: whom to tell.
        facts: what a resumed run must find unchanged besides the settings, such as the data's hash.
        world: the processes.
        steps: of the whole run; as the settings say when absent.
        sampler: gives texts of the model, every `sample_every` steps; none from parts of weights (`shard`).
    """

    def __init__(
        self,
        settings: Settings,
        model: GPT2,
        train: Batches,
        validation: Batches | None = None,
        *,
        store: Store | None = None,
        report: Report | None = None,
        facts: dict[str, str] | None = None,
        world: World | None = None,
        steps: int | None = None,
        sampler: Callable[[GPT2], list[str]] | None = None,
    ) -> None:
        self.settings, self.train, self.validation = settings, train, validation
        self.sampler = None if settings.shard or not settings.sample_every else sampler
        self.store, self.report, self.facts = store, report or Report(), dict(facts or {})
        self.world = world or World()
        self.steps = total_steps(settings, train) if steps is None else steps
        self.schedule = Schedule.of(settings, self.steps)
        self.model = model.to(self.world.device)
        model.activation_checkpointing = settings.activation_checkpointing
        if settings.compile:
            for block in model.h:  # not the embedding: its compiled gradient is not the same every time
                block.compile(dynamic=False)
        objective = Objective(model, rows=settings.loss_rows, compiled=settings.compile)
        self._asked: Asked | None = None
        if self.world.ranks == 1:  # several processes have to agree, and do so between passes
            objective.look = self._look
        self.objective = self.world.spread(objective, model.h, shard=settings.shard)
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.optimizers = Optimizers(self.named, settings)
        self.peak: float = next(iter(self.optimizers.groups()))["peak"]
        self.scaler = torch.amp.GradScaler(
            self.world.device.type, init_scale=2.0**14, enabled=settings.precision == "float16"
        )
        self.progress = Progress()
        self._saved: int | None = None
        self.evaluate_every = settings.evaluate_every or max(10, math.ceil(train.steps(1.0) / 4))
        self.checkpoint_every = settings.checkpoint_every or max(1, self.steps // 20)

    # --- the run ---

    def run(self) -> Progress:
        """Train until it is over. Raises LossDiverged, CheckpointError, and KeyboardInterrupt or SystemExit
        after a signal, when the state is saved."""
        progress = self.progress
        if self._saved is None and progress.step == 0:
            self.report.began(self.settings.to_dict())
        with Asked() as asked:
            while True:
                if self._must_stop(asked):
                    self._stop(asked)
                if self._evaluation_due() and self.evaluate(asked) is None:
                    continue  # asked to stop: it begins again when the run goes on
                if progress.step >= self.steps and progress.ended is None:
                    progress.ended = "steps"
                if progress.ended or (progress.step % self.checkpoint_every == 0 and progress.step):
                    self.save()
                if progress.ended:
                    return progress
                if self.step(asked) and self.sampler is not None and self.world.first:
                    self._sample(self.sampler)

    @contextlib.contextmanager
    def _heeding(self, asked: Asked | None) -> Iterator[None]:
        """A signal gives up the pass that runs within."""
        self._asked = asked
        try:
            yield
        finally:
            self._asked = None

    def _look(self) -> None:
        if self._asked is not None and self._asked.signal is not None:
            raise Stopped

    def _sample(self, sampler: Callable[[GPT2], list[str]]) -> None:
        if self.progress.step % self.settings.sample_every == 0:
            self.report.samples(self.progress.step, sampler(self.model))

    def _evaluation_due(self) -> bool:
        step = self.progress.step
        due = step % self.evaluate_every == 0 or step >= self.steps
        return due and self.validation is not None and self.progress.evaluated != step

    def step(self, asked: Asked | None = None) -> bool:
        """One step; False, and nothing has changed, when a signal came before its end."""
        began, number = time.monotonic(), self.progress.step
        share = self.schedule.share(number)
        self.optimizers.set_rate(share)
        targets = self.train.loss_tokens(number)
        self.model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for micro in range(self.train.accumulation):
            if asked is not None and micro and self._must_stop(asked):
                self.optimizers.zero_grad()
                return False
            try:
                with self._heeding(asked):
                    loss += self._forward_and_back(number, micro, targets)
            except Stopped:
                self.optimizers.zero_grad()
                return False
        (total,) = self.world.sum(float(loss))
        norm = self._update(total)
        self.progress.step, self.progress.tokens = number + 1, self.progress.tokens + targets
        seconds = time.monotonic() - began
        self.progress.seconds += seconds
        self.report.step(
            self.progress.step, self.steps, loss=total / targets, rate=self.peak * share, norm=norm,
            tokens=targets, seconds=seconds,
        )  # fmt: skip
        return True

    def _forward_and_back(self, number: int, micro: int, targets: int) -> Tensor:
        """Add the gradient of one micro-batch; its summed loss."""
        arrays = on_device(self.train.batch(number, micro), self.world.device)
        seed_dropout(self.settings.seed, number, micro * self.world.ranks + self.world.rank)
        more = micro + 1 < self.train.accumulation
        with self.world.accumulating(self.objective, more):
            loss = self._loss(arrays)
            # DDP and FSDP2 take the mean of the processes' gradients; the sum is wanted.
            self.scaler.scale(loss * (self.world.ranks / targets)).backward()
        return loss.detach().double()

    def _loss(self, arrays: Arrays) -> Tensor:
        dtype = DTYPES.get(self.settings.precision)
        device = self.world.device.type
        lean = self.settings.compile and device == "cpu"
        with (
            torch.autocast(device, dtype) if dtype else contextlib.nullcontext(),
            lean_graphs() if lean else contextlib.nullcontext(),
        ):
            return self.objective(*arrays)

    def _update(self, loss: float) -> float:
        """Clip and take the step. Raises LossDiverged before anything is changed; the norm."""
        for optimizer in self.optimizers.all:
            self.scaler.unscale_(optimizer)
        norm = float(self.world.norm([p for _, p in self.named], self.settings.clip))
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(norm)
        if overflow and self.scaler.get_scale() > SMALLEST_SCALE:
            self.report.note(
                f"step {self.progress.step}: gradients overflow float16; a smaller scale is taken"
            )
        elif not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(loss, norm)
        for optimizer in self.optimizers.all:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizers.zero_grad()
        return norm

    def _diverged(self, loss: float, norm: float) -> None:
        self.optimizers.zero_grad()
        step = self.progress.step
        broken = [name for name, p in self.named if not bool(torch.isfinite(whole(p)).all())]
        if not broken:
            self.save()
        steps = self.store.steps() if self.store is not None else []
        raise LossDiverged(
            f"the loss of step {step} is no number",
            got=f"loss {loss:g}, norm of the gradient {norm:g}",
            where=f"the weight {broken[0]}" if broken else f"batch {step}",
            likely=f"the newest good state is the checkpoint of step {steps[-1]}" if steps else None,
            hint="a lower lr, a longer warmup, clip=1, or precision='bfloat16' in place of float16",
        )

    def _must_stop(self, asked: Asked) -> bool:
        """Whether any process was asked to stop: they stop before the same step."""
        return bool(self.world.sum(float(asked.signal is not None))[0])

    def _stop(self, asked: Asked) -> None:
        self.save()
        self.report.note(f"stopped at step {self.progress.step}, saved; go on with --resume")
        asked.leave()

    # --- looking ---

    @torch.no_grad()
    def evaluate(self, asked: Asked | None = None) -> float | None:
        """The mean held-out loss in nats per token; keeps the weights if it is the best so far.

        None, and nothing has changed, without held-out batches or when a signal came before the end.
        """
        if self.validation is None:
            return None
        self.model.eval()
        loss, count = 0.0, 0
        for batch in self.validation.once(self.settings.evaluate_windows):
            if asked is not None and self._must_stop(asked):
                return None
            try:
                with self._heeding(asked):
                    loss += float(self._loss(on_device(batch, self.world.device)))
            except Stopped:
                return None
            count += batch.loss_tokens
        loss, tokens = self.world.sum(loss, float(count))
        mean, progress = loss / tokens, self.progress
        progress.evaluated = progress.step
        better = mean < progress.best_loss
        if better:
            progress.best_loss, progress.best_step, progress.worse = mean, progress.step, 0
            self._write("best", optimizers=False)
        else:
            progress.worse += 1
            if 0 < self.settings.patience <= progress.worse:
                progress.ended = "patience"
        self.report.evaluation(progress.step, mean, better=better)
        return mean

    # --- keeping ---

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self._saved != self.progress.step or self.progress.ended:
            self._write("step", optimizers=True)
            self._saved = self.progress.step

    def _write(self, kind: str, *, optimizers: bool) -> None:
        # All processes gather; one writes.
        parts = {"model": {name: to_numpy(whole(p), name) for name, p in self.named}}
        if optimizers:
            parts["optimizer"] = {name: to_numpy(t, name) for name, t in self.optimizers.state().items()}
        problem: CheckpointError | None = None
        if self.store is not None and self.world.first:
            self.progress.scaler = self.scaler.state_dict() if self.scaler.is_enabled() else {}
            facts = {
                "progress": self.progress.to_json(), "best_step": self.progress.best_step,
                "identity": self.facts, "settings": self.settings.to_dict(), "steps": self.steps,
                "threads": torch.get_num_threads(), "torch": torch.__version__,
            }  # fmt: skip
            try:
                began = time.monotonic()
                self.store.save(self.progress.step, parts, facts, kind=kind)
                self.report.saved(self.progress.step, kind, time.monotonic() - began)
            except CheckpointError as error:
                problem = error
        self.world.agree(None if problem is None else str(problem))
        if problem is not None:
            raise problem

    def resume(self) -> bool:
        """Go on from the newest checkpoint that is whole; False where there is none.

        Raises SettingsChanged where the run was another one, CheckpointError where all are damaged.
        """
        if self.store is None or (newest := self.store.newest()) is None:
            return False
        self._check_same(newest)
        copy_parameters(self.named, newest)
        tensors = {name: from_numpy(t) for name, t in newest.tensors("optimizer").items()}
        self.optimizers.load(tensors)
        self.progress = Progress.from_json(newest.facts["progress"])
        if self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
        if newest.facts["threads"] != torch.get_num_threads():
            self.report.note(
                f"note: {torch.get_num_threads()} threads, {newest.facts['threads']} before: the bits will "
                "not be those of a run that was not interrupted"
            )
        self._saved = self.progress.step
        self.report.resumed(self.progress.step)
        return True

    def _check_same(self, found: Checkpoint) -> None:
        changed = differences(found.facts["settings"], self.settings.to_dict())
        for name in sorted({*self.facts, *found.facts["identity"]}):
            before, now = found.facts["identity"].get(name), self.facts.get(name)
            if before != now:
                changed.append(f"{name}: {before}, now {now}")
        if found.facts["steps"] != self.steps and not changed:
            changed.append(f"steps: {found.facts['steps']}, now {self.steps}")
        if changed:
            raise SettingsChanged(
                "the run in this folder is another one",
                where=str(found.path.parent),
                got="\n  " + "\n  ".join(changed),
                hint="the same settings, or another output",
            )

    def load_best(self) -> None:
        """The weights of the best evaluation, into the model; the last ones where nothing was evaluated."""
        if self.store is not None and self.progress.best_step is not None:
            copy_parameters(self.named, self.store.best(self.progress.best_step))


@torch.no_grad()
def copy_parameters(named: list[tuple[str, nn.Parameter]], source: Checkpoint) -> None:
    """Checked copies of a checkpoint's weights into parameters. Raises CheckpointError."""
    tensors = source.tensors("model")
    expected = {name: tuple(p.shape) for name, p in named}
    found = {name: t.shape for name, t in tensors.items()}
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))
        raise CheckpointError(
            "the checkpoint is of another model",
            where=str(source.path),
            got=str(wrong[0]),
            source="the model",
        )
    for name, parameter in named:
        parameter.copy_(like(from_numpy(tensors[name]).to(parameter.device), parameter))


def total_steps(settings: Settings, train: Batches) -> int:
    """As many as the epochs need, at most max_steps."""
    steps = max(1, train.steps(settings.epochs))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def seed_dropout(seed: int, step: int, part: int) -> None:
    """Set PyTorch's generators for one micro-batch: what they draw depends on nothing that came before."""
    digest = hashlib.sha256(f"{seed} {step} {part}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
