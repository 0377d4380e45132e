"""A whole run: from sources and settings to a model directory with its card.

    result = run(Settings.of("finetune", data=("notes.txt",), output="tuned"), say=print)

The output directory is the model's (of a lora run with the adapter put into its weights; the adapter alone is
in its adapter/). What belongs to the run is in its run/: settings.toml, log.jsonl, loss.svg, data/ (the
tokens), checkpoints/. The order of things: take the folder, open the model and the data,
plan and refuse or go on, train, take the best weights, write and measure the model. Each part can be cut and
is gone on with when the run is resumed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2.cards import write_model
from gpt2.errors import Error, InvalidRequest, TrainingError
from gpt2.model import GPT2
from gpt2.train.after import measure_after, read_text, summary
from gpt2.train.checkpoint import Store
from gpt2.train.data import Tokens
from gpt2.train.loop import Progress, Trainer
from gpt2.train.memory import kept_memory
from gpt2.train.optimizer import multiplies_bfloat16
from gpt2.train.plan import Plan, make_plan
from gpt2.train.report import Report, silent
from gpt2.train.sample import sampled_texts
from gpt2.train.settings import Settings
from gpt2.train.start import Start, batches_of, identity_of, open_data, open_start, settled
from gpt2.train.tensors import to_numpy
from gpt2.train.world import World
from gpt2.weights import fingerprint

RUN = "run"
"""The folder of the run within the output directory."""

ADAPTER = "adapter"
"""Of a lora run: the adapter alone, beside the whole model that has it in its weights."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left. `card` is None in all processes but the first, and where only a plan was wanted."""

    output: Path
    plan: Plan
    progress: Progress | None
    card: dict[str, Any] | None


def run(
    settings: Settings,
    *,
    resume: bool = False,
    only_plan: bool = False,
    say: Say = silent,
    progress: Say = silent,
) -> Result:
    """Train as the settings say and write the model directory.

    Args:
        resume: go on with the run that the output directory has; begin where it has none.
        only_plan: make the plan, train nothing, leave nothing but the prepared data.
        say: is told lines for people; `progress`, the state after each step.

    Raises InvalidRequest, DataError, TrainingError and what loading a model raises.
    """
    if settings.output is None or not settings.data:
        raise InvalidRequest("data and output", expected="both", hint="gpt2 finetune FILE --output DIR")
    output = Path(settings.output)
    if settings.general is not None:
        read_text(settings.general)  # what is wrong with it is better said now than after hours
    # torchrun starts all processes again when one has died: they go on from the newest checkpoint.
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with World.start() as world, contextlib.ExitStack() as stack:
        if not world.first:
            say = progress = silent
        store = Store(output / RUN / "checkpoints", keep=settings.keep, say=say)
        with together(world):
            if world.first:
                check_output(output, store, resume=resume)
                stack.enter_context(store.locked())
        start = open_start(settings)
        tokens = open_data(settings, start, output / RUN, world, say)
        settings = settled(settings, start, tokens, world)
        train, held_out = batches_of(settings, tokens, world)
        report = Report(
            output / RUN if world.first else None, log_every=settings.log_every, say=say, progress=progress
        )
        trainer = Trainer(
            settings, start.model, train, held_out,
            store=store, report=report, facts=identity_of(start, tokens), world=world,
            sampler=lambda model: sampled_texts(model, start.tokenizer, settings.prompts, settings.seed),
        )  # fmt: skip
        if resume:
            trainer.resume()
        with kept_memory():  # the plan measures as the run will be
            plan = announce(trainer, output, say)
            if only_plan:
                return Result(output, plan, None, None)
            if world.first:
                (output / RUN / "settings.toml").write_text(settings.to_toml(), encoding="utf-8")
            if held_out is None:
                report.note("nothing is held out: the run cannot see when it overfits")
            try:
                done = trainer.run()
            finally:
                report.close()
        say(ending(done, trainer.steps))
        trainer.load_best()
        card = keep(output, settings, start, tokens, done, world, say)
        return Result(output, plan, done, card)


@contextlib.contextmanager
def together(world: World) -> Any:
    """What the first process does alone; if it fails, the others end, too, and none waits for ever."""
    try:
        yield
    except Error as error:
        world.agree(str(error))
        raise
    world.agree(None)


def check_output(output: Path, store: Store, *, resume: bool) -> None:
    """Raise InvalidRequest where something is there that the run would mix with."""
    if store.steps() or store.steps("best"):
        if not resume:
            raise InvalidRequest(
                "there is a run in this directory already",
                where=str(output),
                hint="--resume to go on with it, or another --output",
            )
        return
    others = [e.name for e in output.iterdir() if e.name != RUN] if output.is_dir() else []
    if others or (output.exists() and not output.is_dir()):
        raise InvalidRequest(
            "the output is there already",
            where=str(output),
            got=", ".join(sorted(others)[:4]) or "a file",
            expected="a new directory, or an empty one",
        )


def announce(trainer: Trainer, output: Path, say: Say) -> Plan:
    """Make the plan, tell it with every setting, refuse what cannot be done."""
    recipe = trainer.settings.recipe
    for line in trainer.settings.to_toml().splitlines():
        of_another = (line.startswith("n_") and recipe != "pretrain") or (
            line.startswith(("lora_", "dora")) and recipe != "lora"
        )
        if not of_another:
            say(f"  {line}")
    plan = make_plan(trainer, output)
    for line in plan.lines():
        say(line)
    if trainer.settings.precision == "float32" and multiplies_bfloat16(trainer.world.device):
        say("faster       this machine multiplies bfloat16: --precision bfloat16, in long runs --compile")
    plan.check()
    return plan


def ending(done: Progress, steps: int) -> str:
    """Why the run is over."""
    best = (
        f"; the best held-out loss, {done.best_loss:.4f}, was at step {done.best_step:,}"
        if done.best_step is not None
        else ""
    )
    if done.ended == "patience":
        return f"stopped at step {done.step:,} of {steps:,}: the held-out loss no longer falls{best}"
    return f"all {done.step:,} steps done{best}"


def keep(
    output: Path, settings: Settings, start: Start, tokens: Tokens, done: Progress, world: World, say: Say
) -> dict[str, Any] | None:
    """Write what the run made; every process must come here, and the first has the card."""
    with together(world):
        if settings.recipe == "lora":
            keep_adapter(output, start, world)
        tensors = weights_of(start.model, settings.save_precision)
        return write(output, settings, start, tokens, tensors, done, say) if world.first else None


def weights_of(model: GPT2, precision: str) -> dict[str, Any]:
    """All weights by name, adapters in them, for a file; every process must ask: of sharded ones each has a
    part."""
    from gpt2.train.lora import merged_weights

    dtype = getattr(torch, precision)
    return {name: to_numpy(p.to(dtype), name) for name, p in merged_weights(model)}


def keep_adapter(output: Path, start: Start, world: World) -> None:
    """Write the adapter for `peft` and for the engine; every process must come here."""
    from gpt2.train.lora import adapter_of
    from gpt2.weights.adapters import save_adapter

    adapter = adapter_of(start.model, base=start.name)
    if world.first:
        save_adapter(output / ADAPTER, adapter, start.model.config)


def write(
    output: Path,
    settings: Settings,
    start: Start,
    tokens: Tokens,
    tensors: dict[str, Any],
    done: Progress,
    say: Say,
) -> dict[str, Any]:
    """The model directory and its card."""
    fresh = settings.recipe == "pretrain"
    held_out = tokens.split("validation")

    def measure(folder: Path) -> dict[str, Any]:
        facts = measure_after(
            folder, before=None if fresh else start.origin, train=tokens.split("train"),
            held_out=held_out if held_out.tokens else None, general=settings.general,
            prompts=settings.prompts, seed=settings.seed, say=say,
        )  # fmt: skip
        return {"training": training_facts(settings, tokens, done), **facts}

    source = None
    if not fresh:
        found = fingerprint(start.origin)
        source = {"name": start.name, "sha256": found.whole, "files": dict(found.files)}
    card = write_model(
        output, start.model.config, tensors, origin=start.origin, command=settings.recipe,
        source=source, measure=measure,
    )  # fmt: skip
    for line in summary(card):
        say(line)
    return card


def training_facts(settings: Settings, tokens: Tokens, done: Progress) -> dict[str, Any]:
    """What a card says of how a model was trained; no paths, no times."""
    said = settings.to_dict()
    for name in ("data", "output", "model", "general"):
        said.pop(name)
    if done.step < 1:
        raise TrainingError("nothing was trained")
    return {
        "settings": said, "data": {"sha256": tokens.hash}, "steps": done.step, "tokens": done.tokens,
        "ended": done.ended, "best_step": done.best_step,
        "held_out_loss": None if done.best_step is None else done.best_loss,
    }  # fmt: skip
