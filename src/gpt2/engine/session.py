"""Session: a text that a model and others write in turns, for chats and games.

It holds tokens, not keys and values: what the engine's prefix cache still has is not computed again, and what
it has lost is, with the same bits. So turn n costs what its own tokens cost (and at most a block of 64 more),
an idle session costs no memory of the engine, and one that was saved goes on as if it had never stopped.

Knows how turns become tokens and which part of them the model sees. How a text is continued is generation.py;
what a session's file looks like is session_file.py; what roles look like is decoding/templates.py.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2.decoding import SamplingParams, Template
from gpt2.decoding.seeds import draw_seed
from gpt2.engine.history import kept_tokens, window_after, window_at_start
from gpt2.engine.prompts import Prompt, ids_or_none, start_id
from gpt2.engine.reply import Begun, Reply, Said
from gpt2.errors import InvalidRequest, PromptTooLong
from gpt2.protocols import Completion, FinishReason

if TYPE_CHECKING:
    from gpt2.engine.model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one call added to a session, and where the session stood after it."""

    role: str | None
    """Who spoke: the role of the message; None where no message was given, or a text as it is."""
    message: str
    """What was said, without the template's markup; of a text as it is, that text."""
    prompt: str
    """What of it stands in the session's text, markup included."""
    reply: str | None
    """What the model added; None if it was not asked."""
    finish_reason: FinishReason | None
    """Why the reply ended; None where there is none, or where its reader had enough."""
    seed: int | None
    """The one that the reply was drawn with."""
    end: int
    """Tokens of the session after this turn."""
    window: int
    """The first token that the model sees after this turn."""
    draws: int
    """Replies that were drawn so far; the next one's seed depends on it."""


class Session:
    """A text in turns. Made by LanguageModel.session() or LanguageModel.restore_session().

    One thread or coroutine at a time may use it; any number of sessions may share a model. Each call either
    adds its turn or, when it raises, leaves the session as it was.
    """

    def __init__(
        self,
        model: LanguageModel,
        params: SamplingParams,
        *,
        seed: int,
        template: Template,
        salt: str,
        adapter: str | None = None,
    ) -> None:
        self.model = model
        self.template = template
        """How the next messages are written; may be replaced at any time."""
        self.salt = salt
        """As in LanguageModel.generate(). It is not saved."""
        self.adapter = adapter
        """The name of the loaded adapter that the next replies are made with; may be replaced at any time."""
        self._params = _fitting(params).replace(seed=None)
        self._seed = seed
        self._tokens: list[int] = []
        self._turns: list[Turn] = []
        self._marks: dict[str, int] = {}
        self._window = self._draws = 0
        self._open: weakref.ref[Reply] | None = None

    def __repr__(self) -> str:
        return (
            f"<gpt2.Session of {self.model.name!r}: {len(self._turns)} turns, {len(self._tokens)} tokens, "
            f"{self.template.id}, seed {self._seed}>"
        )

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of it, those included that the window has passed. A reply is kept without the stop string, the
        stop token or the end-of-text token that ended it."""
        return tuple(self._tokens)

    @property
    def text(self) -> str:
        """All of it; token ids that were given as such are decoded."""
        return "".join(turn.prompt + (turn.reply or "") for turn in self._turns)

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    @property
    def window(self) -> int:
        """The first token that the model sees; above 0 once the window has moved (overflow="slide")."""
        return self._window

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def draws(self) -> int:
        """Replies that were drawn with this seed, those that undo(keep_draws=True) took back included."""
        return self._draws

    @property
    def params(self) -> SamplingParams:
        """The options of the next replies. Their seed is None: it is the session's. Assigning options that
        have one calls reseed() with it."""
        return self._params

    @params.setter
    def params(self, params: SamplingParams) -> None:
        self._require_idle()
        self._params = _fitting(params).replace(seed=None)
        if params.seed is not None:
            self.reseed(params.seed)

    def reseed(self, seed: int) -> None:
        """Draw the next replies as a session that began with this seed."""
        self._require_idle()
        self._seed = SamplingParams(seed=seed).seed or 0
        self._draws = 0

    # --- what is said ---

    def append(self, text: Prompt) -> None:
        """Add a text or token ids as they are: no template, no reply. An empty one changes nothing."""
        ids, shown = self._encoded(text)
        if ids:
            self._require_idle()
            self._add(ids, role=None, message=shown, prompt=shown)

    def say(self, text: str, role: str = "user") -> None:
        """Add a message in the template's form, without asking for a reply."""
        self._require_idle()
        prompt = self._written(role, text)
        ids, _ = self._encoded(prompt)
        self._add(ids, role=role, message=text, prompt=prompt)

    def generate(
        self, message: str | None = None, *, role: str = "user", timeout: float | None = None, **options: Any
    ) -> Completion:
        """Add a message in the template's form, and the model's reply to it. Without a message the model goes
        on from where the session stands: it replies to what was said last, or continues its own reply.

        The options go on top of `params` for this reply alone. Its seed is made from the session's and the
        number of replies drawn before (the first reply has the session's own), unless one is given.

        Raises:
            InvalidRequest (PromptTooLong, UnknownOption), Overloaded, DeadlineExpired, OutOfMemory: then the
            session is as it was, without the message.
        """
        reply = self._begin(message, role, timeout, options, pieces_count=False)
        for _ in reply:
            pass
        return reply.whole()

    def stream(
        self, message: str | None = None, *, role: str = "user", timeout: float | None = None, **options: Any
    ) -> Reply:
        """As generate(), piece by piece. Closing the iterator ends the reply there: what was handed out stays
        in the session; if that is nothing, the message is taken back as well."""
        return self._begin(message, role, timeout, options)

    async def agenerate(
        self, message: str | None = None, *, role: str = "user", timeout: float | None = None, **options: Any
    ) -> Completion:
        """generate() for asyncio. A task that is cancelled leaves the session as it was."""
        reply = self._begin(message, role, timeout, options, pieces_count=False, asynchronous=True)
        async for _ in reply:
            pass
        return reply.whole()

    def astream(
        self, message: str | None = None, *, role: str = "user", timeout: float | None = None, **options: Any
    ) -> Reply:
        """stream() for asyncio. End it early with `await reply.aclose()`."""
        return self._begin(message, role, timeout, options, asynchronous=True)

    # --- back and aside ---

    def undo(self, turns: int = 1, *, keep_draws: bool = False) -> None:
        """Take the last turns back. The session then stands where it stood before them.

        keep_draws: what was drawn counts as drawn, so that the same message then gets another reply.
        """
        if isinstance(turns, bool) or not isinstance(turns, int) or not 1 <= turns <= len(self._turns):
            most = len(self._turns)
            expected = f"1 to {most}, the turns of the session" if most else "a session with turns"
            raise InvalidRequest("undo", got=repr(turns), expected=expected)
        draws = self._draws
        self.rewind(len(self._turns) - turns)
        if keep_draws:
            self._draws = draws

    def mark(self, name: str) -> None:
        """Remember this place under a name, for rewind(). A name that is taken moves here."""
        if not isinstance(name, str) or not name:
            raise InvalidRequest("mark", got=repr(name), expected="a name")
        self._marks[name] = len(self._turns)

    @property
    def marks(self) -> dict[str, int]:
        """Name -> turns at that place."""
        return dict(self._marks)

    def rewind(self, to: str | int) -> None:
        """Go back to a mark, or to the first `to` turns. Marks that lie behind are forgotten."""
        self._require_idle()
        count = self._marks.get(to) if isinstance(to, str) else to
        if count is None or isinstance(count, bool) or not 0 <= count <= len(self._turns):
            named = " | ".join(self._marks) or "no marks"
            raise InvalidRequest("rewind", got=repr(to), expected=f"0 to {len(self._turns)}, or {named}")
        del self._turns[count:]
        last = self._turns[-1] if self._turns else None
        del self._tokens[last.end if last else 0 :]
        self._window, self._draws = (last.window, last.draws) if last else (0, 0)
        self._marks = {name: at for name, at in self._marks.items() if at <= count}

    def branch(self) -> Session:
        """A copy that goes its own way. Nothing is computed again: both share what they have in common."""
        self._require_idle()
        other = Session(
            self.model, self._params, seed=self._seed, template=self.template, salt=self.salt,
            adapter=self.adapter,
        )  # fmt: skip
        other._tokens, other._turns, other._marks = [*self._tokens], [*self._turns], dict(self._marks)
        other._window, other._draws = self._window, self._draws
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file (docs/formats/session.md), for LanguageModel.restore_session(). A file that is
        there is replaced in one step: whatever happens, it is the old one or the new one.

        Raises SessionError."""
        from gpt2.engine.session_file import save

        self._require_idle()
        save(self, path)

    # --- inside ---

    def _require_idle(self) -> None:
        reply = self._open() if self._open is not None else None
        if reply is not None:
            raise InvalidRequest(
                "the session is in the middle of a reply", hint="read its stream to the end, or close it"
            )
        self._open = None

    def _encoded(self, text: Prompt) -> tuple[list[int], str]:
        """Ids and text of what was given. Each piece is encoded by itself, so that it never changes those
        before it."""
        tokenizer = self.model._tokenizer
        if isinstance(text, str):
            special = self.model.tokenizer.special_tokens if self._params.allow_special else ()
            return self.model.tokenizer.encode(text, allowed_special=tuple(special)), text
        ids = ids_or_none(text, self.model.config.vocab_size).tolist()
        return ids, tokenizer.decode(ids) if tokenizer is not None else ""

    def _add(
        self,
        ids: list[int],
        *,
        role: str | None,
        message: str,
        prompt: str,
        reply: str | None = None,
        finish_reason: FinishReason | None = None,
        seed: int | None = None,
    ) -> None:
        self._tokens += ids
        self._turns.append(
            Turn(
                role=role, message=message, prompt=prompt, reply=reply, finish_reason=finish_reason,
                seed=seed, end=len(self._tokens), window=self._window, draws=self._draws,
            )
        )  # fmt: skip

    def _written(self, role: str, message: str) -> str:
        """A message in the template's form, and what stands between it and the text so far."""
        if not self._turns:
            before = self.template.start(role)
        else:
            before = self.template.closing if self._turns[-1].reply is not None else ""
        return before + self.template.message(role, message)

    def _prompt(self, message: str | None, role: str) -> str:
        """The text that is added before a reply."""
        if message is not None:
            return self._written(role, message) + self.template.opening
        if not self._turns:
            return self.template.start(None) + self.template.opening
        last = self._turns[-1]
        return self.template.opening if last.role is not None and last.reply is None else ""

    def _turn_params(self, options: dict[str, Any]) -> SamplingParams:
        params = _fitting(self._params.replace(**options) if options else self._params)
        seed = params.seed if options.get("seed") is not None else draw_seed(self._seed, self._draws)
        stop = tuple(dict.fromkeys((*params.stop, *self.template.stop)))
        return params.replace(seed=seed, stop=stop if self.model._tokenizer is not None else params.stop)

    def _begin(
        self,
        message: str | None,
        role: str,
        timeout: float | None,
        options: dict[str, Any],
        *,
        pieces_count: bool = True,
        asynchronous: bool = False,
    ) -> Reply:
        self._require_idle()
        params = self._turn_params(options)
        prompt = self._prompt(message, role)
        ids = self._encoded(prompt)[0] if prompt else []
        if not self._tokens and not ids:
            ids = [start_id(self.model.config, self.model._tokenizer)]
        tokens = [*self._tokens, *ids]
        window = self._window
        if params.overflow == "slide":
            window = window_at_start(window, len(tokens), self.model.config.n_positions)
        stream = self.model.astream if asynchronous else self.model.stream
        try:
            chunks = stream(tokens[window:], params, salt=self.salt, timeout=timeout, adapter=self.adapter)
        except PromptTooLong as error:
            raise PromptTooLong(
                "the session does not fit the context window", got=error.got, expected=error.expected,
                source=error.source, hint='overflow="slide" (the older half is forgotten), or truncate',
            ) from None  # fmt: skip
        begun = Begun(
            role=role if message is not None else None, message=message or "", prompt=prompt, ids=ids,
            window=window, moved=int(window > self._window), params=params,
        )  # fmt: skip
        reply = Reply(begun, chunks, self._ended, pieces_count=pieces_count)
        self._open = weakref.ref(reply)
        return reply

    def _ended(self, begun: Begun, said: Said | None) -> None:
        """A reply is over; None leaves no trace of it."""
        self._open = None
        if said is None:
            return
        length = len(self._tokens) + len(begun.ids)
        kept = kept_tokens(said.tokens, said.text, said.finish_reason, said.stop, self.model._tokenizer)
        self._window = begun.window
        if begun.params.overflow == "slide":
            positions = self.model.config.n_positions
            moved = window_after(begun.window, length, len(said.tokens), positions)
            self._window = min(moved, length + len(kept) - 1)
        self._draws += 1
        self._add(
            [*begun.ids, *kept], role=begun.role, message=begun.message, prompt=begun.prompt,
            reply=said.text, finish_reason=said.finish_reason, seed=begun.params.seed,
        )  # fmt: skip


def _fitting(params: SamplingParams) -> SamplingParams:
    if params.n != 1:
        raise InvalidRequest(
            "a session goes on with one text", got=f"n={params.n}", expected="n=1",
            hint="branch() for more, or LanguageModel.generate(session.tokens, n=...)",
        )  # fmt: skip
    if params.token_healing:
        raise InvalidRequest(
            "a session keeps what was said", got="token_healing=True, which takes its last tokens back",
            expected="token_healing=False", hint="LanguageModel.generate(session.text, token_healing=True)",
        )  # fmt: skip
    return params
