"""A session on disk: one JSON object (docs/formats/session.md), written in one step and believed in nothing.

It holds tokens, marks, options, seed and window; keys and values are computed again, with the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from gpt2.decoding import SamplingParams, Template
from gpt2.engine.identity import Identity
from gpt2.engine.session import Session, Turn
from gpt2.errors import CorruptFile, InvalidRequest, SessionError, SessionMismatch
from gpt2.protocols import FinishReason
from gpt2.weights.disk import sync_folder
from gpt2.weights.strict_json import clip, load_object

if TYPE_CHECKING:
    from gpt2.engine.model import LanguageModel

FORMAT: Final = "gpt2-session"
VERSION: Final = 1
MAX_BYTES: Final = 64 << 20
"""Of a file that is read: some millions of tokens."""
_MOST = 2**53


def save(session: Session, path: str | os.PathLike[str]) -> None:
    """Raises SessionError when it cannot be written; then a file that was there is still the old one."""
    file = Path(path)
    try:
        data = _json(_record(session)).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise SessionError(
            "the session cannot be written as JSON", where=str(file), got=str(error)[:200],
            hint="options that are functions cannot be saved: session.params = session.params.replace(...)",
        ) from None  # fmt: skip
    if len(data) > MAX_BYTES:
        raise SessionError(
            "the session is too long",
            where=str(file),
            got=f"{len(data)} bytes",
            expected=f"at most {MAX_BYTES}",
        )
    try:
        _write(file, data)
    except OSError as error:
        raise SessionError("the session cannot be written", where=str(file), got=error.strerror) from None


def _json(record: dict[str, Any]) -> str:
    """One line for each field, so that two files can be compared by eye."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _write(file: Path, data: bytes) -> None:
    """All or nothing: a new file takes the old one's place once it is on the disk. Its owner alone may read
    it."""
    number, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:100]}.")
    try:
        with open(number, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(file.parent)


def _record(session: Session) -> dict[str, Any]:
    found = session.model._adapters.info(session.adapter)
    adapter = {} if found is None else {"adapter": {"name": found.name, "hash": found.hash}}
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": dataclasses.asdict(session.model.identity()),
        **adapter,
        "params": dataclasses.asdict(session.params),  # defaults, too: another version may have others
        "template": session.template.as_dict(),
        "seed": session.seed,
        "draws": session.draws,
        "window": session.window,
        "tokens": list(session.tokens),
        "turns": [dataclasses.asdict(turn) for turn in session.turns],
        "marks": session.marks,
    }


def restore(model: LanguageModel, path: str | os.PathLike[str], salt: str) -> Session:
    """Raises SessionError, SessionMismatch."""
    where = str(Path(path))
    record = _Fields(_read(where), where, "")
    if record.take("format", str) != FORMAT or record.whole("version", 1) != VERSION:
        raise SessionError(
            "this is no session that this version reads", where=where,
            got=f"{clip(record.values['format'])}, version {clip(record.values['version'])}",
            expected=f"{FORMAT}, version {VERSION}",
        )  # fmt: skip
    _require_same(model.identity(), _identity(record.table("model")), where)
    adapter = _adapter(model, record.table("adapter"), where) if "adapter" in record.values else None
    try:
        params = SamplingParams().replace(**record.take("params", dict))
        template = Template.from_dict(record.take("template", dict))
        session = Session(
            model,
            params,
            seed=record.whole("seed", 0, 2**64 - 1),
            template=template,
            salt=salt,
            adapter=adapter,
        )
        model._generation(session.params, salt, None)  # what the model refuses is refused here
    except InvalidRequest as error:
        raise SessionError(error.what, where=where, got=error.got, expected=error.expected) from None
    vocab = model.config.vocab_size
    session._tokens = record.numbers("tokens", vocab)
    session._turns = _turns(record, len(session._tokens))
    session._marks = _marks(record, len(session._turns))
    session._draws = record.whole("draws", 0, _MOST)
    session._window = record.whole("window", 0, max(0, len(session._tokens) - 1))
    record.require_no_more()
    return session


def _require_same(here: Identity, saved: Identity, where: str) -> None:
    differences = here.differences(saved)
    if not differences:
        return
    likely = "it belongs to another model"
    hint = f"gpt2.load({saved.name!r}, ...); or lm.session() and append() of its text, which begins anew"
    if here.files == saved.files:
        likely = "the model is the same, and was loaded in another way"
        hint = f"gpt2.load({saved.name!r}, weights={saved.weights!r}, cache={saved.cache!r})"
    if differences[0].startswith("arithmetic"):
        likely = "another build, or an instruction set with bits of its own, saved it"
        hint = "the build that saved it; or lm.session() and append() of its text, which begins anew"
    raise SessionMismatch(
        "the session would not go on with the same bits", where=where, got="; ".join(differences[:4]),
        expected="the model and build that saved it", likely=likely, hint=hint[:400],
    )  # fmt: skip


def _adapter(model: LanguageModel, fields: _Fields, where: str) -> str:
    """The name here of the adapter that the session was made with."""
    name, wanted = fields.take("name", str), fields.take("hash", str)
    fields.require_no_more()
    loaded = model.adapters
    same = [info.name for info in loaded.values() if info.hash == wanted]
    if not same:
        here = loaded.get(name)
        raise SessionMismatch(
            "the session was made with an adapter that is not loaded", where=where,
            got=" | ".join(loaded) or "no adapters", expected=f"{name[:200]!r}, {wanted[:12]}",
            likely="an adapter of this name is loaded, and it is another one" if here else None,
            hint="load_adapter() of the one that the session had",
        )  # fmt: skip
    return name if name in same else same[0]


def _read(where: str) -> dict[str, Any]:
    try:
        with open(where, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise SessionError("the session cannot be read", where=where, got=got) from None
    if len(data) > MAX_BYTES:
        raise SessionError(
            "the file is too large for a session", where=where, expected=f"at most {MAX_BYTES} bytes"
        )
    try:
        return load_object(data, where=where, part="the session")
    except CorruptFile as error:
        raise SessionError(error.what, where=where, got=error.got) from None


class _Fields:
    """The fields of an object of the file, each taken once and checked."""

    def __init__(self, values: dict[str, Any], where: str, inside: str) -> None:
        self.values = values
        self.where = where
        self._inside = inside
        self._taken: set[str] = set()

    def wrong(self, name: str, got: object, expected: str) -> SessionError:
        return SessionError(f"{self._inside}{name}", where=self.where, got=clip(got), expected=expected)

    def take(self, name: str, *kinds: type) -> Any:
        if name not in self.values:
            raise SessionError(f"{self._inside}{name} is missing", where=self.where)
        self._taken.add(name)
        value = self.values[name]
        if type(value) not in kinds:
            named = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise self.wrong(name, type(value).__name__, named)
        return value

    def whole(self, name: str, low: int, high: int = _MOST) -> int:
        value: int = self.take(name, int)
        if not low <= value <= high:
            raise self.wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def table(self, name: str) -> _Fields:
        return _Fields(self.take(name, dict), self.where, f"{self._inside}{name}.")

    def texts(self, name: str) -> dict[str, str]:
        values: dict[str, str] = self.take(name, dict)
        if not all(type(value) is str for value in values.values()):
            raise self.wrong(name, "other values", "texts")
        return values

    def numbers(self, name: str, end: int) -> list[int]:
        values: list[int] = self.take(name, list)
        for at, value in enumerate(values):
            if type(value) is not int or not 0 <= value < end:
                raise self.wrong(f"{name}[{at}]", value, f"0 to {end - 1} (vocab_size)")
        return values

    def require_no_more(self) -> None:
        for name in self.values:
            if name not in self._taken:
                raise SessionError(
                    f"{self._inside}{clip(name)} is unknown", where=self.where,
                    likely="a newer version wrote it, or it is no session",
                )  # fmt: skip


def _identity(fields: _Fields) -> Identity:
    found = Identity(
        name=fields.take("name", str),
        made_by=fields.take("made_by", str),
        files=fields.texts("files"),
        weights=fields.take("weights", str),
        cache=fields.take("cache", str),
        vocab_size=fields.whole("vocab_size", 1),
        n_positions=fields.whole("n_positions", 1),
        arithmetic=fields.take("arithmetic", str),
    )
    fields.require_no_more()
    return found


def _turns(record: _Fields, tokens: int) -> list[Turn]:
    turns: list[Turn] = []
    begin = 0
    for at, values in enumerate(record.take("turns", list)):
        if type(values) is not dict:
            raise record.wrong(f"turns[{at}]", type(values).__name__, "an object")
        turn = _turn(_Fields(values, record.where, f"turns[{at}]."), begin, tokens)
        begin = turn.end
        turns.append(turn)
    if begin != tokens:
        raise record.wrong(
            "turns", f"an end at token {begin}", f"the last turn ends at {tokens}, the last token"
        )
    return turns


def _turn(fields: _Fields, begin: int, tokens: int) -> Turn:
    end = fields.whole("end", begin, tokens)
    reasons: Iterable[str] = get_args(FinishReason)
    finish = fields.take("finish_reason", str, type(None))
    if finish is not None and finish not in reasons:
        raise fields.wrong("finish_reason", finish, " | ".join(reasons))
    seed = fields.take("seed", int, type(None))
    if seed is not None and not 0 <= seed < 2**64:
        raise fields.wrong("seed", seed, "a whole number in [0, 2**64)")
    turn = Turn(
        role=fields.take("role", str, type(None)),
        message=fields.take("message", str),
        prompt=fields.take("prompt", str),
        reply=fields.take("reply", str, type(None)),
        finish_reason=finish,
        seed=seed,
        end=end,
        window=fields.whole("window", 0, max(0, end - 1)),
        draws=fields.whole("draws", 0, _MOST),
    )
    fields.require_no_more()
    return turn


def _marks(record: _Fields, turns: int) -> dict[str, int]:
    values: dict[str, int] = record.take("marks", dict)
    for name, at in values.items():
        if type(at) is not int or not 0 <= at <= turns or not name:
            raise record.wrong(f"marks.{clip(name)}", at, f"0 to {turns} (turns)")
    return values
