"""What a decoding strategy needs of an engine: branches of text to extend, fork, rewind and drop.

A strategy (beam search, speculation, contrastive search, ...) is a generator that knows no model, no batch
and no thread. It yields `Wait`, a list of extensions whose answers it needs before it can go on, and is sent
the answers, in that order; it yields `Emit` for each piece of the result that is certain, and is sent None.
Whoever drives it decides in which batches the extensions are computed, together with those of other
requests, and closes the generator when nobody wants the rest:

    def greedy(tree, prompt, params, ends):
        branch = tree.open(prompt)
        tokens = prompt
        for _ in range(params.max_new_tokens):
            (answer,) = yield Wait([Extend(branch, tokens, Ask("choices"))])
            tokens = [answer.choices[0].token]
            yield Emit(tokens=tokens, ...)

The engine's tree is engine/branches.py over native/engine; a test's may be a function from ids to logits.

V vocabulary size, C = n_embd, R rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from gpt2.protocols import FinishReason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gpt2.decoding.params import SamplingParams

    Floats: TypeAlias = npt.NDArray[np.float32]
    Bits: TypeAlias = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of the last `rows` positions of a branch once its new tokens are computed."""

    kind: Literal["choices", "candidates", "logits"]
    """choices: the engine chooses the next token by the branch's params, and checks drafts (see `drafts`);
    candidates: the `count` best tokens after the rules that look at the history, with their scores;
    logits: the model's own, unchanged."""
    rows: int = 1
    drafts: int = 0
    """choices only: the last `drafts` of the new tokens are guesses. The engine chooses after the last sure
    token; while the choice equals the next guess it goes on to choose after that. The answer has the choices
    that were made, accepted guesses and one more; the branch is rewound to the sure and accepted tokens."""
    count: int = 0
    """candidates only."""
    normalise: bool = False
    """candidates only: log-softmax before the rules, as beam search wants; else rules on the logits."""
    mask: Bits | None = None
    """choices and candidates: bit t % 32 of word t // 32 says whether token t is allowed; [ceil(V / 32)].
    With drafts it holds for the first choice alone and the others are not made."""
    hidden: bool = False
    """Also the final hidden states (after LN_f) of the rows."""
    layers: tuple[int, ...] = ()
    """Also logits read from the residual stream after these blocks (0: the embedding) by the head alone,
    without LN_f: as DoLa does in transformers."""


@dataclass(frozen=True, slots=True)
class Choice:
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """To one Extend. Only what was asked for is there."""

    choices: tuple[Choice, ...] = ()
    ids: npt.NDArray[np.int32] | None = None
    """candidates [count], best first, ties by the lower id; fewer where the rules leave fewer."""
    scores: Floats | None = None
    """Of `ids`."""
    logits: Floats | None = None
    """[R, V]"""
    hidden: Floats | None = None
    """[R, C]"""
    layers: Floats | None = None
    """[len(Ask.layers), R, V]"""
    full: bool = False
    """The window is full and the request does not slide: nothing was computed, the branch stands where it
    stood, and all else here is empty."""


class Branch(Protocol):
    """One text under construction. Branches of one tree share the keys and values of what they share."""

    @property
    def length(self) -> int:
        """Tokens, the prompt included."""
        ...

    def fork(self, *, alternative: int | None = None) -> Branch:
        """Another branch that stands where this one stands; with `alternative` it draws as that one does."""
        ...

    def rewind(self, length: int) -> None:
        """Forget the tokens after the first `length`. At least one token must be extended before the next
        answer."""
        ...

    def drop(self) -> None:
        """Give its memory back. A strategy may leave that to the end of its request."""
        ...


@dataclass(frozen=True, slots=True)
class Extend:
    """Append `tokens` (at least one) to a branch, compute, and answer `ask`."""

    branch: Branch
    tokens: Sequence[int]
    ask: Ask


class Tree(Protocol):
    """One request's branches in an engine."""

    @property
    def vocab_size(self) -> int: ...

    def open(
        self, params: SamplingParams | None = None, *, alternative: int = 0, prompt_length: int | None = None
    ) -> Branch:
        """An empty branch; its first Extend brings the prompt. params: by which its choices and candidates
        are made (the request's, if None). The draw for a position depends on (seed, alternative, tokens
        after the prompt) alone; the prompt is the first `prompt_length` tokens (if None: those of the first
        Extend)."""
        ...

    def rules(
        self, logits: Floats, branch: Branch, *, normalise: bool = False, draw_rules: bool = True
    ) -> Floats:
        """Scores [V] after the branch's rules, for logits [V] that the strategy made itself; with draw_rules
        those that shape the draw (temperature, top_k, ...) too. -inf for a banned token."""
        ...

    def ended(self, tokens: Sequence[int]) -> bool:
        """Whether the text of `tokens`, all since the prompt, holds one of the request's stop strings. To be
        asked after each token."""
        ...

    def choose(self, logits: Floats, branch: Branch, *, mask: Bits | None = None) -> Choice:
        """As Ask("choices") does, from logits [V] that the strategy made itself."""
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    extensions: list[Extend]


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Tokens of one alternative that are certain now; with `finish`, its last."""

    tokens: Sequence[int]
    logprobs: Sequence[float] | None = None
    top: Sequence[tuple[tuple[int, float], ...]] | None = None
    alternative: int = 0
    finish: FinishReason | None = None
    score: float | None = None
    """Of the whole alternative, where the strategy ranks them (beams); with `finish`."""


Strategy: TypeAlias = Generator["Wait | Emit", "list[Answer] | None", None]

MakeStrategy: TypeAlias = Callable[["Tree", Sequence[int], "SamplingParams", "frozenset[int]"], Strategy]
"""(tree, prompt ids, the request's params, the ids that end a text) -> the strategy of one request."""
