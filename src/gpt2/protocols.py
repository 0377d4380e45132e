"""What a tokenizer, a language model and a logits processor offer, and the results that they hand out.

The rooms above write against these names, so that the native engine, the PyTorch model and a fake of five
lines in a test can take each other's place. Only types and plain records: no behaviour, no knowledge of any
implementation or of the options of a request (decoding.SamplingParams stands higher; here it is `Any`).

T tokens, C = n_embd, L layers, V vocabulary size, B texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # numpy is not needed to describe a result, and `gpt2 --help` must not wait for it
    import numpy as np
    import numpy.typing as npt

    from gpt2.config import GPT2Config

    Floats: TypeAlias = npt.NDArray[np.float32]

FinishReason: TypeAlias = Literal["length", "stop", "eos", "context", "grammar", "time"]
"""Why a generation ended: `length` max_new_tokens or max_length reached; `stop` a stop string or stop token
id; `eos` the end-of-text token; `context` the window is full and overflow="stop"; `grammar` what json_schema,
regex, choice or grammar asked for is complete, and nothing may follow it; `time` max_time is over."""

Pooling: TypeAlias = Literal["mean", "last", "weighted"]
"""How one vector is made of the T of a text: the mean, the last, or a mean that weighs later ones more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a length policy removed from a prompt: the ids [start, stop) of its `original` tokens."""

    policy: Literal["left", "right", "middle"]
    """The side that was cut away."""
    original: int
    """Tokens before the cut."""
    start: int
    """Index of the first token removed."""
    stop: int
    """Index after the last token removed; original - (stop - start) tokens were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One finished continuation of one prompt."""

    text: str
    """The continuation alone, without the prompt, cut before the stop string."""
    tokens: tuple[int, ...]
    """Every id that was generated, those of the stop string and the end-of-text token included."""
    finish_reason: FinishReason
    prompt_tokens: int
    """Tokens of the prompt that the model saw (after a cut, if there was one)."""
    seed: int
    """The seed that reproduces this result: the one asked for, or the one that was chosen at random."""
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of `tokens` under the model (temperature 1, no rules), if asked."""
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """For each of `tokens` the most probable (id, logprob) pairs, best first, if asked for."""
    stop: str | int | None = None
    """The stop string, or the stop token id, that ended it (finish_reason "stop")."""
    index: int = 0
    """Which of the `n` alternatives this is, from 0."""
    truncated: Cut | None = None
    """What was cut from the prompt; None when nothing was."""
    slides: int = 0
    """How often the window was moved (overflow="slide"); 0 when everything fitted."""
    score: float | None = None
    """By which the strategy ranked this alternative (beam search: its length-normalised log-probability)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a continuation while it is generated; the texts of all chunks joined are Completion.text."""

    text: str
    """What can be shown now. May be empty: half a character, or the possible beginning of a stop string, is
    held back until it is certain."""
    tokens: tuple[int, ...]
    """The ids generated since the previous chunk."""
    logprobs: tuple[float, ...] | None = None
    """As in Completion, for `tokens`."""
    index: int = 0
    """Which of the `n` alternatives this belongs to."""
    finish_reason: FinishReason | None = None
    """None until the last chunk of this alternative."""
    completion: Completion | None = None
    """The whole result (seed, what was cut, ...), on the last chunk of this alternative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """One candidate for the next token, with the model's own probability (temperature 1, no processors)."""

    id: int
    text: str
    """The token's bytes as text; half a character shows as U+FFFD."""
    probability: float
    logprob: float
    """Natural logarithm of `probability`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One way in which a text may go on, as an editor offers it."""

    text: str
    """What follows the prefix, which may have ended within a word; never empty, and without half a character
    at its end."""
    logprob: float
    """Natural log-probability of `tokens` under the model; what suggestions are ordered by."""
    tokens: tuple[int, ...]
    """The ids that were chosen; the first ones repeat the end of the prefix where that was healed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How probable a text is under the model, token by token."""

    tokens: tuple[int, ...]
    """The ids of the text."""
    texts: tuple[str, ...]
    """The text of each token."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each token given those before it; the first follows the end of text."""
    total: float
    """Sum of `logprobs`."""
    perplexity: float
    """exp(-total / number of tokens)."""
    bits_per_byte: float
    """-total / ln 2 / number of UTF-8 bytes of the text: comparable between vocabularies."""


class StreamDecoder(Protocol):
    """Turns ids into text one at a time and never emits half a character."""

    def push(self, id: int, /) -> str:
        """The text that is certain after this id; may be empty."""
        ...

    def finish(self) -> str:
        """The rest; an incomplete character at the end shows as U+FFFD."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Encoding is lossless: decode(encode(text)) == text."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int | None:
        """The id of the end-of-text token, or None where the vocabulary has none."""
        ...

    def encode(self, text: str, *, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids of `text`. Special tokens in it are plain text unless `allowed_special` names them."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str: ...

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes that this one id stands for."""
        ...

    def stream(self) -> StreamDecoder: ...


@runtime_checkable
class LanguageModel(Protocol):
    """A model that continues, scores and embeds text."""

    @property
    def config(self) -> GPT2Config: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def generate(
        self, prompt: str | Sequence[str], params: Any = None, *, preset: str | None = None, **options: Any
    ) -> Completion | list[Completion]:
        """Continue a prompt, or each of a list. One string and n == 1 give a Completion; otherwise a list,
        the n alternatives of a prompt side by side. `params`: a SamplingParams; `options`: its fields."""
        ...

    def stream(
        self, prompt: str, params: Any = None, *, preset: str | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """The same continuation as generate(), piece by piece."""
        ...

    def logits(self, ids: Sequence[int]) -> Floats:
        """Unnormalised log-probabilities after each position, float32 [T, V]."""
        ...

    def score(self, text: str) -> Score: ...

    def next_tokens(self, prompt: str, n: int = 10) -> list[NextToken]:
        """The `n` most probable next tokens, best first."""
        ...

    def embed(self, texts: str | Iterable[str], layer: int = -1, pooling: Pooling = "mean") -> Floats:
        """One vector per text, float32 [B, C]."""
        ...

    def hidden_states(self, ids: Sequence[int]) -> Floats:
        """The residual stream before each layer and after the last (normalised), float32 [L + 1, T, C]."""
        ...


class LogitsProcessor(Protocol):
    """A rule that changes logits before a token is chosen, for instance a penalty or a mask."""

    def __call__(self, ids: Sequence[int], logits: Floats, /) -> Floats:
        """ids: prompt and generated tokens so far; logits: float32 [V], not changed in place. Returns [V]."""
        ...


class StoppingCriteria(Protocol):
    """Says where a text ends, beside stop strings and lengths."""

    def __call__(self, ids: Sequence[int], /) -> bool:
        """ids: prompt and generated tokens so far. True: the last of them is the last of the text."""
        ...
