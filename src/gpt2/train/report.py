"""What a run tells: a log of JSON lines, a line of progress, TensorBoard where it is installed, a curve.

    log.jsonl   one object per line, "event" first: "step", "evaluation", "saved", "note", ...; steps every
                `log_every`. A resumed run drops the lines after the step that it goes on from, so each step
                is told once, and the losses are those of a run that was not cut
    loss.svg    training and held-out loss over the steps

The library never prints: lines for people go to `say` and `progress`, which the command line sets. Knows no
model and no tensors.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


class Report:
    """Takes the events of a run. Without a folder nothing is written."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        log_every: int = 10,
        say: Say = silent,
        progress: Say = silent,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.log_every, self.say, self._progress = log_every, say, progress
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=32)  # loss, tokens, seconds
        self._board: Any = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._board = _tensorboard(self.folder)

    @property
    def log(self) -> Path | None:
        return None if self.folder is None else self.folder / "log.jsonl"

    # --- events ---

    def step(
        self, step: int, steps: int, *, loss: float, rate: float, norm: float, tokens: int, seconds: float
    ) -> None:
        """A step is done: its mean loss in nats per token, its rate, its gradient's norm before clipping."""
        self._recent.append((loss, tokens, seconds))
        if step % self.log_every == 0 or step == steps:
            self.write(
                "step", step=step, loss=loss, rate=rate, norm=norm, tokens=tokens, seconds=round(seconds, 4)
            )
            self._scalar("loss/train", loss, step)
            self._scalar("rate", rate, step)
            self._scalar("gradient norm", norm, step)
        self._progress(self.line(step, steps))

    def line(self, step: int, steps: int) -> str:
        """step 120/1000  loss 3.2145  8,120 tokens/s  4:10 left; of the last 32 steps."""
        losses, tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        speed = tokens / seconds if seconds else 0.0
        left = (steps - step) * seconds / len(self._recent)
        return (
            f"step {step:,}/{steps:,}  loss {losses / len(self._recent):.4f}  {speed:,.0f} tokens/s  "
            f"{duration(left)} left"
        )

    def evaluation(self, step: int, loss: float, *, better: bool) -> None:
        """The held-out loss, in nats per token, and whether it is the best so far."""
        self.write("evaluation", step=step, loss=loss, better=better)
        self._scalar("loss/held-out", loss, step)
        best = ", the best" if better else ""
        self.say(f"step {step:,}: held-out loss {loss:.4f} (perplexity {exp(loss):,.2f}){best}")

    def samples(self, step: int, texts: list[str]) -> None:
        """What the model writes at a step, prompts included."""
        self.write("samples", step=step, texts=texts)
        for text in texts:
            self.say(f"step {step:,} writes: {text!r}")

    def saved(self, step: int, kind: str, seconds: float) -> None:
        self.write("saved", step=step, kind=kind, seconds=round(seconds, 4))

    def resumed(self, step: int) -> None:
        """The run goes on from a step: what the log has beyond it has not happened."""
        self._forget(lambda event: event.get("step", 0) > step and event["event"] != "note")
        self.write("resumed", step=step)
        self.say(f"goes on from step {step:,}")

    def began(self, settings: dict[str, Any]) -> None:
        """The run begins at its beginning: the log is of one that was cut before its first checkpoint."""
        self._forget(lambda event: event["event"] != "note")
        self.write("settings", **settings)

    def _forget(self, which: Callable[[dict[str, Any]], bool]) -> None:
        if self.log is not None and self.log.is_file():
            kept = [event for event in read_log(self.log) if not which(event)]
            scratch = self.log.with_suffix(".part")
            scratch.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
            os.replace(scratch, self.log)

    def note(self, text: str) -> None:
        """Something that people must read."""
        self.write("note", text=text)
        self.say(text)

    def write(self, event: str, **facts: Any) -> None:
        """One line of the log. Numbers that JSON does not have (a loss that is NaN) become text."""
        if self.log is None:
            return
        facts = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts, "time": round(time.time(), 3)}) + "\n")

    def close(self) -> None:
        """Draw the curve."""
        if self._board is not None:
            self._board.close()
        if self.log is not None and self.log.is_file() and self.folder is not None:
            (self.folder / "loss.svg").write_text(curve(read_log(self.log)), encoding="utf-8")

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events; a last line that a killed process did not finish is left out."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def _tensorboard(folder: Path) -> Any:
    """A writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def duration(seconds: float) -> str:
    """1:05:09, or 4:10."""
    total = round(seconds)
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def exp(x: float) -> float:
    """e to the x, infinite where that is too large to say."""
    return math.exp(x) if x < 700 else math.inf


# --- the curve ---

WIDTH, HEIGHT, MARGIN = 720, 360, 48


def curve(events: Iterable[dict[str, Any]]) -> str:
    """An SVG of the training loss (grey; its running mean blue) and of the held-out loss (red)."""
    events = [e for e in events if isinstance(e.get("loss"), float)]
    train = [(e["step"], e["loss"]) for e in events if e["event"] == "step"]
    held_out = [(e["step"], e["loss"]) for e in events if e["event"] == "evaluation"]
    points = train + held_out
    if not points:
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"/>\n'
    last = max(1, max(step for step, _ in points))
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    high = high if high > low else low + 1.0

    def place(step: float, loss: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / last
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (loss - low) / (high - low)
        return round(x, 1), round(y, 1)

    def path(series: list[tuple[float, float]], colour: str, width: float) -> str:
        line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in series))
        return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{line}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for i in range(5):
        loss, step = low + (high - low) * i / 4, last * i / 4
        x, y = place(step, loss)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{loss:.2f}</text>')
        parts.append(f'<text x="{x}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{step:,.0f}</text>')
    parts += [
        path(train, "#bbb", 1),
        path(_running_mean(train), "#1f6feb", 1.8),
        path(held_out, "#d1242f", 1.8),
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    parts.append(
        f'<text x="{MARGIN}" y="20">nats per token: <tspan fill="#1f6feb">training</tspan>, '
        '<tspan fill="#d1242f">held out</tspan></text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _running_mean(series: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential mean, started without a bias to 0."""
    out, total, weight = [], 0.0, 0.0
    for step, loss in series:
        total, weight = 0.9 * total + 0.1 * loss, 0.9 * weight + 0.1
        out.append((step, total / weight))
    return out
