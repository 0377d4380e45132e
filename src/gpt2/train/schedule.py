"""The learning rate of each step, as a share of its peak.

Pure functions of the step: a resumed run needs no state of a schedule. The formulas are those of
transformers (`get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
`get_cosine_with_min_lr_...`, `get_constant_schedule_with_warmup`, `get_wsd_schedule` with a linear decay), to
the letter: the first step of a warm-up has rate 0.

    warm-up    step / W                                              step < W; of wsd f + (1 - f) step / W
    constant   1
    linear     f + (1 - f) (N - step) / (N - W)
    cosine     f + (1 - f) (1 + cos(pi (step - W) / (N - W))) / 2    (Loshchilov & Hutter, arXiv:1608.03983)
    wsd        1 until N - D, then f + (1 - f) (N - step) / D        (Hu et al., arXiv:2404.06395)

N all steps, W those of the warm-up, D those of the decay, f the share at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpt2.train.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    kind: str
    """cosine, linear, constant or wsd."""
    steps: int
    """N."""
    warmup: int
    """W."""
    final: float = 0.0
    """f."""
    decay: int = 0
    """D, of wsd alone."""

    @classmethod
    def of(cls, settings: Settings, steps: int) -> Schedule:
        """The schedule of a run of so many steps."""
        warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * steps
        return cls(
            kind=settings.schedule,
            steps=steps,
            warmup=min(math.ceil(warmup), steps),
            final=settings.final_lr,
            decay=max(1, round(settings.decay * steps)),
        )

    def share(self, step: int) -> float:
        """The share of the peak rate at a step, counted from 0. Beyond the last step: as at the end."""
        if step < self.warmup:
            rising = step / self.warmup
            return self.final + (1 - self.final) * rising if self.kind == "wsd" else rising
        if self.kind == "constant":
            return 1.0
        if self.kind == "wsd":
            left = min(1.0, (self.steps - step) / self.decay)
        else:
            left = (self.steps - step) / max(1, self.steps - self.warmup)
        left = max(0.0, left)
        if self.kind == "cosine":
            left = (1 + math.cos(math.pi * (1 - left))) / 2
        return self.final + (1 - self.final) * left
