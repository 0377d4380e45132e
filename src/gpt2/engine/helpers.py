"""What a caller brings along for one call of generate(), beside options: functions, a model that guesses, an
adapter.

It says which strategy that means, and refuses what does not go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2 import _native
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.custom import custom
from gpt2.decoding.strategies.table import strategy_for
from gpt2.decoding.tree import MakeStrategy
from gpt2.errors import InvalidRequest
from gpt2.protocols import LogitsProcessor, StoppingCriteria

if TYPE_CHECKING:
    from gpt2.engine.model import LanguageModel


@dataclass(frozen=True, slots=True)
class Helpers:
    processors: Sequence[LogitsProcessor] = ()
    criteria: Sequence[StoppingCriteria] = ()
    assistant: LanguageModel | None = None
    adapter: _native.Adapter | None = None

    @property
    def custom(self) -> bool:
        return len(self.processors) > 0 or len(self.criteria) > 0

    def strategy(self, asked: MakeStrategy | None, params: SamplingParams) -> MakeStrategy | None:
        """The strategy that calls them; without any, the one that is asked for. Raises InvalidRequest for
        both."""
        own = "logits_processors and stopping_criteria" if self.custom else "assistant_model"
        if not self.custom and self.assistant is None:
            return asked
        if asked is not None or strategy_for(params) is not None:
            raise InvalidRequest(
                f"{own} and an option that asks for another strategy contradict each other",
                expected="greedy decoding or sampling",
                hint="leave out prompt_lookup_num_tokens, num_beams and the like",
            )
        if self.custom and self.assistant is not None:
            raise InvalidRequest(f"{own} and assistant_model contradict each other", expected="one of them")
        return custom(self.processors, self.criteria) if self.custom else None

    def assistant_of(self, model: LanguageModel) -> _native.Engine | None:
        """Its engine. Raises InvalidRequest when it has another vocabulary, or is the model itself."""
        other = self.assistant
        if other is None:
            return None
        if other is model:
            raise InvalidRequest("assistant_model", got="the model itself", expected="a smaller one")
        one, two = model._tokenizer, other._tokenizer
        same = one is None or two is None or one.hash == two.hash
        if other.config.vocab_size != model.config.vocab_size or not same:
            raise InvalidRequest(
                "assistant_model",
                got=f"another vocabulary, of {other.config.vocab_size} tokens",
                expected=f"that of the model, of {model.config.vocab_size} tokens",
            )
        return other._native


NO_HELPERS = Helpers()
