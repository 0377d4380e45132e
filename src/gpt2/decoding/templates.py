"""Prompt templates: how who-said-what becomes one text for a model that knows texts alone.

A template has a name and a version, a form for each role ("User: {text}\\n"), and the strings at which a
reply ends. A version is never changed once it was released: a text that was made with "chatml@1" can be made
again.

Strings in, strings out: no tokenizer, no model. The text of a message is put in as it is, once; braces in it
mean nothing, and neither does markup that it forges (a user may write "\\nUser:" or "<|im_end|>": the model
sees characters, and nothing here can tell who wrote them).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from gpt2.errors import InvalidRequest, UnknownOption

Message: TypeAlias = tuple[str, str]
"""(role, text)"""

MAX_TOML_BYTES: Final = 1 << 20
_FIELDS = ("name", "version", "begin", "reply", "stop", "roles", "defaults")
_SLOT = "{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How messages are written. Raises InvalidRequest for a form without exactly one "{text}"."""

    name: str
    version: int = 1
    roles: Mapping[str, str]
    """Role -> its form, with {text} once: {"user": "User: {text}\\n", "assistant": "Bot: {text}\\n"}."""
    reply: str = "assistant"
    """The role that the model speaks."""
    stop: tuple[str, ...] = ()
    """Strings at which a reply ends; they are not part of it."""
    begin: str = ""
    """Stands once before everything."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Role -> text that stands at the beginning unless a first message of that role replaces it."""

    def __post_init__(self) -> None:
        where = f"template {self.name!r}" if isinstance(self.name, str) else "template"
        _require(where, "name", self.name, "a text", isinstance(self.name, str) and bool(self.name.strip()))
        _require(where, "name", self.name, "a name without '@'", "@" not in self.name)
        whole = isinstance(self.version, int) and not isinstance(self.version, bool) and self.version >= 1
        _require(where, "version", self.version, "a whole number, 1 or more", whole)
        _require(where, "begin", self.begin, "a text", isinstance(self.begin, str))
        given: Any = self.stop
        several = isinstance(given, (tuple, list)) and all(isinstance(stop, str) and stop for stop in given)
        _require(where, "stop", given, "a list of texts, none empty", several)
        _texts(where, "roles", self.roles)
        _texts(where, "defaults", self.defaults)
        for role, form in self.roles.items():
            _require(where, f"roles.{role}", form, f"{_SLOT} exactly once", form.count(_SLOT) == 1)
        _require(where, "reply", self.reply, f"one of {', '.join(self.roles)}", self.reply in [*self.roles])
        unknown = [role for role in self.defaults if role not in self.roles]
        _require(where, "defaults", unknown, f"roles of it: {', '.join(self.roles)}", not unknown)
        object.__setattr__(self, "stop", tuple(given))
        object.__setattr__(self, "roles", MappingProxyType(dict(self.roles)))
        object.__setattr__(self, "defaults", MappingProxyType(dict(self.defaults)))

    @property
    def id(self) -> str:
        """Name and version: "chatml@1"."""
        return f"{self.name}@{self.version}"

    @property
    def opening(self) -> str:
        """What stands before a reply. Without a space at its end: GPT-2's words begin with theirs."""
        return self.roles[self.reply].partition(_SLOT)[0].rstrip(" ")

    @property
    def closing(self) -> str:
        """What stands between a reply and the next message."""
        return self.roles[self.reply].partition(_SLOT)[2]

    def message(self, role: str, text: str) -> str:
        """One message in its form. Raises InvalidRequest for a role that the template has not."""
        if role not in self.roles:
            near = UnknownOption.named(role, self.roles).hint
            raise InvalidRequest(
                "role",
                where=f"template {self.id}",
                got=repr(role),
                expected=" | ".join(self.roles),
                hint=near,
            )
        before, _, after = self.roles[role].partition(_SLOT)
        return before + text + after

    def start(self, first_role: str | None) -> str:
        """What stands before the first message, which has this role."""
        defaults = [self.message(role, text) for role, text in self.defaults.items() if role != first_role]
        return self.begin + "".join(defaults)

    def render(self, messages: Iterable[Message], *, open_reply: bool = True) -> str:
        """The whole text of a dialogue; with `open_reply` up to where the model's next reply begins."""
        said = list(messages)
        text = self.start(said[0][0] if said else None)
        text += "".join(self.message(role, words) for role, words in said)
        return text + self.opening if open_reply else text

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as Template.from_dict() takes them and as a TOML file has them."""
        return {
            "name": self.name,
            "version": self.version,
            "begin": self.begin,
            "reply": self.reply,
            "stop": list(self.stop),
            "roles": dict(self.roles),
            "defaults": dict(self.defaults),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str | None = None) -> Template:
        """Raises InvalidRequest (UnknownOption for a field that there is not)."""
        for name in values:
            if name not in _FIELDS:
                raise UnknownOption.named(name, _FIELDS, where=where)
        for name in ("name", "roles"):
            _require(where, name, None, "given", name in values)
        try:
            return cls(**values)
        except InvalidRequest as error:
            raise InvalidRequest(
                error.what,
                where=where or error.where,
                got=error.got,
                expected=error.expected,
                hint=error.hint,
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Template:
        """One's own, from a TOML file (docs/how-to/write-a-template.md). Raises InvalidRequest."""
        import tomllib  # here, since few commands read one

        file = Path(path)
        try:
            with open(file, "rb") as stream:
                raw = stream.read(MAX_TOML_BYTES + 1)
            if len(raw) > MAX_TOML_BYTES:
                raise InvalidRequest(
                    "template",
                    where=str(file),
                    got="a larger file",
                    expected=f"at most {MAX_TOML_BYTES} bytes",
                )
            values = tomllib.loads(raw.decode("utf-8"))
        except OSError as error:
            raise InvalidRequest(
                "the template cannot be read", where=str(file), got=error.strerror, hint=f"one of: {known()}"
            ) from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidRequest(
                "the template is not TOML", where=str(file), got=str(error)[:200] or "too deep"
            ) from None
        return cls.from_dict(values, where=str(file))

    @classmethod
    def named(cls, name: str) -> Template:
        """A built-in one: "chatml" (its newest version) or "chatml@1". Raises InvalidRequest."""
        bare, at, version = name.partition("@")
        found = [t for t in TEMPLATES if t.name == bare and (not at or str(t.version) == version)]
        if not found:
            near = UnknownOption.named(bare, {t.name for t in TEMPLATES}).hint
            raise InvalidRequest("template", got=repr(name[:60]), expected=known(), hint=near)
        return max(found, key=lambda template: template.version)


def as_template(given: Template | str | os.PathLike[str]) -> Template:
    """A template as such, the name of a built-in one, or the path of a .toml file."""
    if isinstance(given, Template):
        return given
    text = os.fspath(given)
    return Template.load(text) if text.endswith(".toml") else Template.named(text)


def known() -> str:
    """The built-in ones, for messages."""
    return " | ".join(template.id for template in TEMPLATES) + " | FILE.toml"


def _require(where: str | None, what: str, got: object, expected: str, holds: bool) -> None:
    if not holds:
        shown = repr(got)
        raise InvalidRequest(what, where=where, got=shown[:60], expected=expected)


def _texts(where: str, what: str, values: object) -> None:
    fine = isinstance(values, Mapping) and all(
        isinstance(part, str) for pair in values.items() for part in pair
    )
    _require(where, what, values, "a table of texts", fine)


TEMPLATES: Final[tuple[Template, ...]] = (
    Template(
        name="plain",
        roles={"system": "{text}", "user": "{text}", "assistant": "{text}"},
    ),
    Template(
        name="story",
        # The user begins a paragraph and the model goes on in it; what the user adds begins the next one.
        roles={"system": "{text}\n\n", "user": "{text}", "assistant": "{text}\n\n"},
    ),
    Template(
        name="dialogue",
        roles={"system": "{text}\n\n", "user": "User: {text}\n", "assistant": "Assistant: {text}\n"},
        stop=("\nUser:", "\nAssistant:"),
    ),
    Template(
        name="chatml",
        roles={role: f"<|im_start|>{role}\n{_SLOT}<|im_end|>\n" for role in ("system", "user", "assistant")},
        stop=("<|im_end|>", "<|im_start|>"),
    ),
    Template(
        name="alpaca",
        roles={
            "system": "{text}\n\n",
            "user": "### Instruction:\n{text}\n\n",
            "assistant": "### Response:\n{text}\n\n",
        },
        defaults={
            "system": "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request."
        },
        stop=("\n### ",),
    ),
)
"""plain: the texts and nothing else; story: paragraphs; dialogue: two speakers with names; chatml: the markup
of ChatML; alpaca: instruction and response, as the Stanford Alpaca models were tuned on."""
