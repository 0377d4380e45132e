"""The engine's side of decoding/tree.py: branches over native/engine, and the one who drives a strategy.

Knows no strategy: it hands their extensions to a mailbox, collects the answers, and turns what they emit into
chunks. Which extensions run together, in which steps, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gpt2 import _native
from gpt2.decoding.tree import Answer, Ask, Branch, Choice, Emit, Strategy, Wait
from gpt2.errors import EngineError, InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gpt2.decoding.params import SamplingParams

    Floats: TypeAlias = npt.NDArray[np.float32]
    Bits: TypeAlias = npt.NDArray[np.uint32]

Reply: TypeAlias = tuple[int, list[tuple[int, float, list[tuple[int, float]]]], Any, Any, Any, Any, Any]
"""(length of the branch, choices, ids, scores, logits, hidden, layers)"""

BranchEvent: TypeAlias = tuple[int, int, int, Reply | None, BaseException | None]
"""What a mailbox brings of a branch: (request, branch, slides, answer, error)."""

FULL = Answer(full=True)


class NativeBranch:
    """One branch of one request in an engine; see decoding.tree.Branch."""

    __slots__ = ("_length", "alternative", "number", "slides", "tree")

    def __init__(self, tree: NativeTree, number: int, alternative: int, length: int, slides: int) -> None:
        self.tree = tree
        self.number = number
        self.alternative = alternative
        self.slides = slides
        """How often its window has slid."""
        self._length = length

    @property
    def length(self) -> int:
        return self._length

    def fork(self, *, alternative: int | None = None) -> NativeBranch:
        tree = self.tree
        number = tree.mailbox.fork(tree.request, self.number, alternative)
        draws = self.alternative if alternative is None else alternative
        return tree.added(NativeBranch(tree, number, draws, self._length, self.slides))

    def rewind(self, length: int) -> None:
        self.tree.mailbox.rewind(self.tree.request, self.number, length)
        self._length = length

    def drop(self) -> None:
        self.tree.mailbox.drop(self.tree.request, self.number)
        self.tree.branches.pop(self.number, None)

    def answered(self, slides: int, reply: Reply) -> Answer:
        length, choices, ids, scores, logits, hidden, layers = reply
        self._length = length
        self.slides = slides
        self.tree.slid(self)
        return Answer(
            choices=tuple([Choice(token, logprob, tuple(top)) for token, logprob, top in choices]),
            ids=ids,
            scores=scores,
            logits=logits,
            hidden=hidden,
            layers=layers,
        )


class NativeTree:
    """The branches of one request; see decoding.tree.Tree. `native_params` turns the options of a branch
    (None: the request's) into those of the sampler; `ended` finds the request's stop strings."""

    def __init__(
        self,
        mailbox: _native.Mailbox,
        vocab_size: int,
        native_params: Callable[[SamplingParams | None], _native.SamplerParams],
        ended: Callable[[Sequence[int]], bool],
        *,
        place: int = 0,
        slide: bool = False,
        share_prefix: bool = True,
        salt: str = "",
        timeout: float | None = None,
        adapter: _native.Adapter | None = None,
    ) -> None:
        self.mailbox = mailbox
        self.place = place
        """Of the mailbox, in its reader's Post."""
        self.request = mailbox.begin(slide, share_prefix, salt, timeout or 0.0, adapter)
        self.branches: dict[int, NativeBranch] = {}
        self._slides: dict[int, int] = {}  # by alternative: the most of its branches, the dropped ones too
        self._vocab_size = vocab_size
        self._native_params = native_params
        self.ended = ended

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def open(
        self, params: SamplingParams | None = None, *, alternative: int = 0, prompt_length: int | None = None
    ) -> NativeBranch:
        native = self._native_params(params)
        number = self.mailbox.open(self.request, native, alternative, prompt_length or 0)
        return self.added(NativeBranch(self, number, alternative, 0, 0))

    def rules(
        self, logits: Floats, branch: Branch, *, normalise: bool = False, draw_rules: bool = True
    ) -> Floats:
        return self.mailbox.rules(self.request, _own(branch).number, logits, normalise, draw_rules)

    def choose(self, logits: Floats, branch: Branch, *, mask: Bits | None = None) -> Choice:
        token, logprob, top = self.mailbox.choose(self.request, _own(branch).number, logits, mask)
        return Choice(token, logprob, tuple(top))

    def added(self, branch: NativeBranch) -> NativeBranch:
        self.branches[branch.number] = branch
        self.slid(branch)
        return branch

    def slid(self, branch: NativeBranch) -> None:
        """Remember how often the branch's window has slid; the branch may be dropped before anybody asks."""
        self._slides[branch.alternative] = max(self._slides.get(branch.alternative, 0), branch.slides)

    def slides(self, alternative: int | None) -> int:
        """How often the window has slid under the branches that draw as an alternative does; under any
        branch, if None, or if none draws so (beams)."""
        of_any = max(self._slides.values(), default=0)
        return of_any if alternative is None else self._slides.get(alternative, of_any)

    def extend(self, branch: NativeBranch, tokens: Sequence[int], ask: Ask) -> bool:
        """False when the window is full."""
        return self.mailbox.extend(
            self.request,
            branch.number,
            tokens,
            ask.kind,
            ask.rows,
            ask.drafts,
            ask.count,
            ask.normalise,
            ask.hidden,
            ask.layers,
            ask.mask,
        )


class Driver:
    """Runs one strategy: sends its extensions to the engine and the answers back to it."""

    def __init__(self, strategy: Strategy) -> None:
        self.ended = False
        self._strategy = strategy
        self._waits: dict[tuple[NativeTree, int], int] = {}
        self._answers: list[Answer] = []

    def start(self) -> list[Emit]:
        """Go on to where it waits for the first time; what it emitted on the way."""
        return self._advance(None)

    def accept(self, tree: NativeTree, event: BranchEvent) -> list[Emit]:
        """Take the answer for one branch of a tree; when it is the last that it waits for, go on."""
        _, number, slides, reply, error = event
        if error is not None or reply is None:
            self.close()
            raise error or EngineError("an answer without content", likely="a fault in native/engine")
        at = self._waits.pop((tree, number))
        self._answers[at] = tree.branches[number].answered(slides, reply)
        return [] if self._waits else self._advance(self._answers)

    def close(self) -> None:
        self.ended = True
        self._strategy.close()

    def _advance(self, answers: list[Answer] | None) -> list[Emit]:
        emitted: list[Emit] = []
        try:
            while True:
                step = self._strategy.send(answers)
                answers = None
                if isinstance(step, Emit):
                    emitted.append(step)
                elif self._extend(step):
                    return emitted
                else:
                    answers = self._answers
        except StopIteration:
            self.ended = True
            return emitted
        except BaseException:
            self.close()
            raise

    def _extend(self, wait: Wait) -> bool:
        """Send the extensions of a Wait; False when all answers are there already."""
        self._answers = [FULL] * len(wait.extensions)
        for at, extension in enumerate(wait.extensions):
            branch = _own(extension.branch)
            if branch.tree.extend(branch, extension.tokens, extension.ask):
                self._waits[branch.tree, branch.number] = at
        return bool(self._waits)


def _own(branch: Branch) -> NativeBranch:
    if not isinstance(branch, NativeBranch):
        raise InvalidRequest("branch", got=type(branch).__name__, expected="one of the engine's tree")
    return branch


def unfinished(alternative: int) -> EngineError:
    return EngineError(
        "a strategy ended before its text did",
        got=f"no finish of alternative {alternative}",
        expected="an Emit with `finish` for each alternative",
    )
