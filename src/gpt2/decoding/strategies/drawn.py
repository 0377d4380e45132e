"""One alternative whose tokens the engine draws one after the other: what strategies of that kind share.

Speculation, masks and custom processors differ in how a token comes about; when a text ends and what is
emitted is the same for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from gpt2.decoding.tree import Answer, Ask, Choice, Emit, Extend, Wait

if TYPE_CHECKING:
    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Branch, Floats, Strategy, Tree
    from gpt2.protocols import FinishReason


class Drawn:
    """A text under construction. Its first tokens are the prompt."""

    def __init__(
        self,
        tree: Tree,
        branch: Branch,
        prompt: Sequence[int],
        params: SamplingParams,
        ends: frozenset[int],
        alternative: int,
    ) -> None:
        self.branch = branch
        self.alternative = alternative
        self.tokens = list(prompt)
        """The prompt and all that was drawn."""
        self.ended = False
        self._tree = tree
        self._prompt = len(self.tokens)
        self._params = params
        self._ends = ends
        # Not in what a healed prompt repeats: whoever reads the text knows where its own part begins.
        self._stops = bool(params.stop) and not params.token_healing

    @property
    def left(self) -> int:
        """Tokens that may still be drawn."""
        return self._prompt + self._params.max_new_tokens - len(self.tokens)

    @property
    def pending(self) -> list[int]:
        """The tokens that the branch does not have yet."""
        return self.tokens[self.branch.length :]

    def append(self, token: int) -> FinishReason | None:
        """One more token; why the text ends with it, if it does."""
        self.tokens.append(token)
        if token in self._ends:
            return "eos"
        if token in self._params.stop_token_ids:
            return "stop"
        if self._stops and self._tree.ended(self.tokens[self._prompt :]):
            return "stop"
        return "length" if self.left == 0 else None

    def take(self, choices: Sequence[Choice], finish: FinishReason | None = None) -> Emit:
        """Append what was chosen, as far as the text goes; what is certain now."""
        taken: list[Choice] = []
        for choice in choices:
            if finish is not None:
                break
            taken.append(choice)
            finish = self.append(choice.token)
        return self.emit(taken, finish)

    def emit(self, appended: Sequence[Choice], finish: FinishReason | None) -> Emit:
        """What was appended, and with `finish` the end."""
        self.ended = finish is not None
        wanted = self._params.logprobs is not None
        return Emit(
            tokens=[choice.token for choice in appended],
            logprobs=[choice.logprob for choice in appended] if wanted else None,
            top=[choice.top for choice in appended] if wanted else None,
            alternative=self.alternative,
            finish=finish,
        )

    def full(self) -> Emit:
        """The window is full."""
        return self.take((), "context")


def begin(
    tree: Tree,
    prompt: Sequence[int],
    params: SamplingParams,
    ends: frozenset[int],
    take: Callable[[Drawn, Floats], Strategy],
) -> Generator[Wait | Emit, list[Answer] | None, list[Drawn]]:
    """The alternatives of a prompt, each with a branch. Where they are several, the prompt is computed once
    for all, and each takes its first token from the logits [V] after it."""
    root = tree.open(prompt_length=len(prompt))
    texts = [Drawn(tree, root, prompt, params, ends, k) for k in range(params.n)]
    if len(texts) == 1:
        return texts
    for answer in (yield Wait([Extend(root, prompt, Ask("logits"))])) or ():
        for text in texts if answer.logits is not None else ():
            if text.alternative > 0:
                text.branch = root.fork(alternative=text.alternative)
        for text in texts:
            if answer.logits is None:
                yield text.full()
            else:
                yield from take(text, answer.logits[-1])
    return texts
