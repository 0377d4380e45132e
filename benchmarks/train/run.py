"""Training speed: this project's loop beside a tuned PyTorch loop and transformers' Trainer, taking turns.

    python benchmarks/train/run.py                          # 124M, 4 windows of 256, all weights and LoRA
    python benchmarks/train/run.py --only ours,tuned --rounds 5
    python benchmarks/train/run.py --device cuda --batch 32 --window 1024 --peak-tflops 989
    python benchmarks/train/run.py --shape 355M --only "ours lora" --steps 2   # its memory

    ours          gpt2.train.loop.Trainer, as gpt2 finetune runs it
    tuned         transformers' model, torch.compile, fused AdamW, autocast where the processor has bfloat16
    trainer       transformers.Trainer as it comes
    ours lora     the recipe lora: rank 8 on the four linears
    peft lora     the same by peft under transformers.Trainer

Needs transformers, accelerate and peft. Every contender has a process of its own, which is stopped by signal
while others work; each trains on the same random tokens, from random weights. Printed are the median and the
extremes of tokens/s, the ratio to "tuned" (LoRA: to "peft lora") of each round, the arithmetic done (6 P +
6 L T C operations a token, P parameters without the position embedding: Chinchilla's count, arXiv:2203.15556,
with half of the attention masked), and the largest memory of the process (on a GPU: of its allocator).
Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shapes import SHAPES

CONTENDERS = ("ours", "tuned", "trainer", "ours lora", "peft lora")
AGAINST = {
    "ours": "tuned", "tuned": "tuned", "trainer": "tuned", "ours lora": "peft lora", "peft lora": "peft lora",
}  # fmt: skip
TARGETS = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]

Steps = Callable[[int], float]
"""Trains for so many steps; the seconds that they took."""


# --- what is compared ---


def shape(args: argparse.Namespace) -> Any:
    import dataclasses

    from gpt2.config import KNOWN_SIZES

    config = KNOWN_SIZES[SHAPES[args.shape]]
    return dataclasses.replace(config, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)


def tokens(args: argparse.Namespace, windows: int) -> Any:
    """[windows, T + 1] random ids."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 50257, (windows, args.window + 1), dtype=np.int64)


def ours(args: argparse.Namespace, *, lora: bool) -> Steps:
    import torch

    from gpt2.model import GPT2
    from gpt2.train.data import Batches, Split
    from gpt2.train.loop import Trainer
    from gpt2.train.lora import adapt
    from gpt2.train.settings import Settings
    from gpt2.train.world import World

    settings = Settings.of(
        "lora" if lora else "finetune", batch=args.batch, window=args.window, precision=args.precision,
        compile=args.compile, activation_checkpointing=args.checkpointing, packing="stream", warmup=0.0,
        max_steps=1_000_000, epochs=1e6, clip=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2(shape(args))
    if lora:
        adapt(model, rank=8, alpha=16.0, targets=["all"])
    ids = tokens(args, 64 * args.batch)[:, 1:]
    split = Split.of(list(ids), vocab_size=50257, eos_id=50256)
    batches = Batches(split, window=args.window, batch=args.batch, packing="stream")
    run = Trainer(settings, model, batches, world=World(device=torch.device(args.device)))

    def steps(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            run.step()
        settle(args)
        return time.perf_counter() - begin

    return steps


def theirs(args: argparse.Namespace) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    c = shape(args)
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        use_cache=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(args.device).train()


def tuned(args: argparse.Namespace) -> Steps:
    import torch

    model = theirs(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
    run = torch.compile(model) if args.compile else model
    ids = torch.from_numpy(tokens(args, 64 * args.batch)[:, 1:]).to(args.device)
    place = 0

    def step() -> None:
        nonlocal place
        batch = ids[place * args.batch : (place + 1) * args.batch]
        place = (place + 1) % 64
        low = torch.autocast(args.device, torch.bfloat16)
        with low if args.precision == "bfloat16" else contextlib.nullcontext():
            loss = run(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def steps(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            step()
        settle(args)
        return time.perf_counter() - begin

    return steps


def trainer(args: argparse.Namespace, *, lora: bool) -> Steps:
    import tempfile

    import transformers

    model = theirs(args)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True)
        )
    rows = [{"input_ids": row, "labels": row} for row in tokens(args, 64 * args.batch)[:, 1:]]

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """From the end of the first step: what the Trainer sets up before is not counted."""

        began = 0.0

        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            if state.global_step == 1:
                settle(args)
                self.began = time.perf_counter()

    def steps(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            how = transformers.TrainingArguments(
                folder, max_steps=count + 1, per_device_train_batch_size=args.batch, save_strategy="no",
                report_to=[], use_cpu=args.device == "cpu", bf16=args.precision == "bfloat16",
                disable_tqdm=True, logging_strategy="no",
            )  # fmt: skip
            clock = Clock()
            transformers.Trainer(model, how, train_dataset=rows, callbacks=[clock]).train()
        settle(args)
        return time.perf_counter() - clock.began

    return steps


MAKERS: dict[str, Callable[[argparse.Namespace], Steps]] = {
    "ours": lambda args: ours(args, lora=False),
    "tuned": tuned,
    "trainer": lambda args: trainer(args, lora=False),
    "ours lora": lambda args: ours(args, lora=True),
    "peft lora": lambda args: trainer(args, lora=True),
}


def settle(args: argparse.Namespace) -> None:
    if args.device != "cpu":
        import torch

        torch.cuda.synchronize()


# --- a process for each ---


def work(args: argparse.Namespace) -> None:
    """Answers each line of stdin, a number of steps, with the seconds and the memory as JSON."""
    import torch

    from gpt2.train.memory import kept_memory

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not part of the answer
    torch.set_num_threads(args.threads)
    with kept_memory() if args.worker.startswith("ours") else contextlib.nullcontext():  # as gpt2.train.run
        steps = MAKERS[args.worker](args)
        for line in sys.stdin:
            seconds = steps(int(line))
            if args.device == "cpu":
                peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
            else:
                peak = torch.cuda.max_memory_allocated() / 2**20
            out.write(json.dumps({"seconds": seconds, "peak_mb": peak}) + "\n")


class Worker:
    """A contender in a process that stands still unless it is asked."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        command = [sys.executable, __file__, *arguments, "--worker", name]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def ask(self, steps: int) -> dict[str, float]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with status {process.wait()}; see its log")
        os.kill(process.pid, signal.SIGSTOP)
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


# --- the table ---


def operations(args: argparse.Namespace) -> float:
    """Floating-point operations of one token, forwards and back, all weights trained."""
    c = shape(args)
    matrices = 12 * c.n_layer * c.n_embd**2 + c.vocab_size * c.n_embd
    return 6.0 * matrices + 6.0 * c.n_layer * args.window * c.n_embd


def compare(args: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    names = [name for name in CONTENDERS if not args.only or name in args.only.split(",")]
    rates: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, float] = {}
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            workers[name] = Worker(name, arguments, Path(args.log))
            print(f"{name}: warming up", file=sys.stderr, flush=True)
            workers[name].ask(2)  # compiles, allocates
        for number in range(args.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                answer = workers[name].ask(args.steps)
                rates[name].append(args.steps * args.batch * args.window / answer["seconds"])
                peaks[name] = answer["peak_mb"]
                print(
                    f"round {number + 1}: {name} {rates[name][-1]:.0f} tokens/s", file=sys.stderr, flush=True
                )
    finally:
        for worker in workers.values():
            worker.close()
    return {
        name: {
            "tokens_per_second": rates[name], "peak_mb": peaks[name],
            "ratio": [a / b for a, b in zip(rates[name], rates.get(AGAINST[name], []), strict=False)],
        }
        for name in names
    }  # fmt: skip


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    each = operations(args)
    print("| | tokens/s | ratio | GFLOP/s | peak MB |")
    print("|---|---|---|---|---|")
    for name, one in found.items():
        rates = one["tokens_per_second"]
        median = statistics.median(rates)
        ratio = f"{statistics.median(one['ratio']):.2f}x {AGAINST[name]}" if one["ratio"] else ""
        # LoRA has no gradients of the frozen matrices: a third less.
        flops = median * each * (2 / 3 if "lora" in name else 1.0)
        share = f" ({flops / args.peak_tflops / 1e10:.0f} %)" if args.peak_tflops else ""
        spread = f"{median:.0f} ({min(rates):.0f}-{max(rates):.0f})"
        print(f"| {name} | {spread} | {ratio} | {flops / 1e9:.0f}{share} | {one['peak_mb']:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names of contenders, with commas; all by default")
    parser.add_argument("--shape", default="124M", choices=list(SHAPES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="", choices=["float32", "bfloat16"])
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--checkpointing", action="store_true", help="ours: of activations")
    parser.add_argument("--peak-tflops", type=float, help="of the device: then the share of it is shown")
    parser.add_argument("--log", default=os.devnull, help="where the contenders' own messages go")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.precision:
        import torch

        from gpt2.train.optimizer import multiplies_bfloat16

        args.precision = "bfloat16" if multiplies_bfloat16(torch.device(args.device)) else "float32"
    if args.worker:
        work(args)
        return
    found = compare(args, sys.argv[1:])
    show(args, found)
    print(json.dumps({"shape": args.shape, "precision": args.precision, "compile": args.compile, **found}))


if __name__ == "__main__":
    main()
