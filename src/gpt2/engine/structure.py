"""Which strategy draws under a grammar or after a healed prompt, for one loaded model.

Knows what is kept ready between requests (llguidance's tables, the tokens in the order of their bytes), not
how either decides: that is decoding/strategies/grammar.py and decoding/strategies/healing.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from gpt2.config import GPT2Config
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies.grammar import Grammars, Structure, structure_of
from gpt2.decoding.strategies.healing import Healed, Healing, TokenIndex, heal
from gpt2.decoding.strategies.masked import masked
from gpt2.decoding.tree import MakeStrategy, Strategy, Tree
from gpt2.engine.prompts import start_id
from gpt2.errors import InvalidRequest
from gpt2.tokenizer import Tokenizer


class Structures:
    """Grammars and healing over a model's vocabulary, each made when it is first asked for."""

    def __init__(self, config: GPT2Config, tokenizer: Tokenizer | None) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._grammars: Grammars | None = None
        self._index: TokenIndex | None = None

    def strategy_for(self, params: SamplingParams) -> MakeStrategy | None:
        """The strategy of what these params ask for; None where they ask for neither.

        Raises InvalidRequest for a grammar that cannot be used, so that nothing is computed for it.
        """
        if (structure := structure_of(params)) is not None:
            grammars = self._ready_grammars(structure.kind)
            grammars.follow(structure, ())
            return _following(grammars, structure)
        return self._healing if params.token_healing else None

    def heal(self, prompt: Sequence[int]) -> Healed:
        """The prompt without its last tokens, and the bytes of those."""
        try:
            start = start_id(self._config, self._tokenizer)
        except InvalidRequest:
            start = None
        return heal(self.index, prompt, start)

    @property
    def index(self) -> TokenIndex:
        tokenizer = self._needed("token_healing")
        with self._lock:
            if self._index is None:
                self._index = TokenIndex(tokenizer, self._config.vocab_size)
            return self._index

    def _ready_grammars(self, option: str) -> Grammars:
        tokenizer = self._needed(option)
        with self._lock:
            if self._grammars is None:
                self._grammars = Grammars(tokenizer, self._config.vocab_size)
            return self._grammars

    def _needed(self, option: str) -> Tokenizer:
        if self._tokenizer is None:
            raise InvalidRequest(f"{option} needs a tokenizer, and this model has none")
        return self._tokenizer

    def _healing(
        self, tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]
    ) -> Strategy:
        kept, rest = self.heal(prompt)
        return masked(lambda: Healing(self.index, rest))(tree, kept, params, ends)


def _following(grammars: Grammars, structure: Structure) -> MakeStrategy:
    def strategy(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
        closers = ends.union(params.stop_token_ids)
        return masked(lambda: grammars.follow(structure, closers))(tree, prompt, params, ends)

    return strategy
