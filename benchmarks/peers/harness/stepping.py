"""run() for engines that are driven token by token: start(prompts), then step() for each further token."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from harness.operations import Prompts, Times


class SteppedEngine(ABC):
    """Both methods return when the next token of every prompt is chosen (greedily) and known."""

    @abstractmethod
    def start(self, prompts: Prompts, new_tokens: int) -> None:
        """Forget the last run, read the prompts, choose the first token of each; new_tokens will be asked
        for.
        """

    @abstractmethod
    def step(self) -> None:
        """One more token for each prompt."""

    @abstractmethod
    def chosen(self) -> list[int]:
        """The last token of each prompt, after the run."""

    def prepare(self, prompts: Prompts, new_tokens: int) -> None:  # noqa: B027
        """What is not measured: making room for that many prompts and positions. Nothing, unless
        overridden.
        """

    def run(self, prompts: Prompts, new_tokens: int) -> Times:
        self.prepare(prompts, new_tokens)
        begin = time.perf_counter()
        self.start(prompts, new_tokens)
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            self.step()
        last = time.perf_counter()
        return Times(begin, first, last, self.chosen())
