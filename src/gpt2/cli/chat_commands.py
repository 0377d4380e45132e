"""The commands of `gpt2 chat`, one line of the table each, and the talk that they change.

A command that cannot be carried out raises, and the talk is as it was. What it has to say goes to `say`; it
knows no terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt2.errors import InvalidRequest, UnknownOption

if TYPE_CHECKING:
    from gpt2.decoding import OptionSpec
    from gpt2.engine import LanguageModel, Session
    from gpt2.engine.reply import Reply

FIRST_BRANCH = "main"


class Quit(Exception):
    """The talk is over."""


@dataclass
class Talk:
    """The session on the table, and its other branches."""

    model: LanguageModel
    session: Session
    say: Callable[[str], None]
    branch: str = FIRST_BRANCH
    branches: dict[str, Session] = field(default_factory=dict)

    def take(self, line: str) -> Reply | None:
        """A line: a message, a command, or nothing. Returns the reply to stream, if there is one."""
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            if name not in COMMANDS:
                near = UnknownOption.named(name, COMMANDS).hint
                hint = near or "/help; a message that begins with / needs two"
                raise InvalidRequest(f"there is no command /{name[:40]}", hint=hint)
            return COMMANDS[name].run(self, rest.strip())
        message = line.removeprefix("/") if line.startswith("//") else line
        return self.session.stream(message) if message.strip() else None

    def load(self, path: str) -> None:
        self.session = self.model.restore_session(path)
        self.say(f"loaded {path}: {_size(self.session)}")


@dataclass(frozen=True)
class Command:
    form: str
    """What follows the name."""
    help: str
    run: Callable[[Talk, str], Reply | None]


def complete(text: str, number: int) -> str | None:
    """For readline: the number-th command that begins with `text`."""
    found = [f"/{name} " for name in COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []
    return found[number] if number < len(found) else None


def _size(session: Session) -> str:
    return f"{len(session.turns)} turns, {len(session.tokens)} tokens"


def _help(talk: Talk, rest: str) -> None:
    width = max(len(f"/{name} {command.form}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        talk.say(f"{f'/{name} {command.form}':<{width}}  {command.help}")


def _quit(talk: Talk, rest: str) -> None:
    raise Quit


def _undo(talk: Talk, rest: str) -> None:
    talk.session.undo(_number("/undo", rest, 1) if rest else 1)
    talk.say(f"taken back; {_size(talk.session)} are left")


def _retry(talk: Talk, rest: str) -> Reply:
    """The turn is taken back in a copy, which takes the talk's place once its reply has begun."""
    last = talk.session.turns[-1] if talk.session.turns else None
    if last is None or last.reply is None:
        raise InvalidRequest("there is no reply to draw again", hint="send a message first")
    session = talk.session.branch()
    session.undo(keep_draws=True)
    reply = session.stream() if last.role is None else session.stream(last.message, role=last.role)
    talk.session = session
    return reply


def _more(talk: Talk, rest: str) -> Reply:
    return talk.session.stream()


def _branch(talk: Talk, rest: str) -> None:
    if not rest:
        for name in sorted({*talk.branches, talk.branch}):
            here = name == talk.branch
            session = talk.session if here else talk.branches[name]
            talk.say(f"{'*' if here else ' '} {name}: {_size(session)}")
        return
    if rest == talk.branch:
        talk.say(f"already on {rest}")
        return
    known = rest in talk.branches
    other = talk.branches[rest] if known else talk.session.branch()
    talk.branches[talk.branch] = talk.session
    talk.branches.pop(rest, None)
    talk.branch, talk.session = rest, other
    talk.say(f"{'back on' if known else 'new branch'} {rest}: {_size(other)}")


def _save(talk: Talk, rest: str) -> None:
    talk.session.save(_given("/save", rest, "FILE"))
    talk.say(f"saved {rest}: {_size(talk.session)}")


def _load(talk: Talk, rest: str) -> None:
    talk.load(_given("/load", rest, "FILE"))


def _seed(talk: Talk, rest: str) -> None:
    if rest:
        talk.session.reseed(_number("/seed", rest, 0))
    talk.say(f"seed {talk.session.seed}, {talk.session.draws} replies drawn with it")


def _params(talk: Talk, rest: str) -> None:
    from gpt2.decoding import option_specs

    specs = {spec.name: spec for spec in option_specs()}
    changes: dict[str, Any] = {}
    for word in re.findall(r'[^\s=]+(?:=(?:"(?:\\.|[^"\\])*"|\S*))?', rest):
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if name not in specs:
            raise UnknownOption.named(name, specs)
        if not equals:
            talk.say(f"{name} = {getattr(talk.session.params, name)!r}  {specs[name].help}")
            return
        changes[name] = _value(specs[name], value)
    if changes:
        talk.session.params = talk.session.params.replace(**changes)
    for name, spec in specs.items():
        if (value := getattr(talk.session.params, name)) != spec.default and name != "seed":
            talk.say(f"{name} = {value!r}")


def _value(spec: OptionSpec, text: str) -> Any:
    """The value of an option as it is typed; what its row then refuses is refused there."""
    import json

    if spec.multiple or spec.type is str:
        try:  # "\n" in quotes, or a list
            return json.loads(text)
        except ValueError:
            return text
    if text == "none":
        return None
    if spec.type is bool:
        return {"true": True, "false": False}.get(text, text)
    try:
        return spec.type(text)
    except ValueError:
        raise InvalidRequest(spec.name, got=repr(text[:60]), expected=spec.range) from None


def _template(talk: Talk, rest: str) -> None:
    from gpt2.decoding import as_template

    if rest:
        talk.session.template = as_template(rest)
        talk.say("what was said stays as it was written")
    talk.say(f"template {talk.session.template.id}")


def _system(talk: Talk, rest: str) -> None:
    talk.session.say(_given("/system", rest, "TEXT"), role="system")
    talk.say("said in the system's role")


def _given(command: str, text: str, what: str) -> str:
    if not text:
        raise InvalidRequest(f"{command} needs {what}", hint=f"{command} {what}")
    return text


def _number(command: str, text: str, low: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise InvalidRequest(command, got=repr(text[:60]), expected=f"a whole number, {low} or more")
    return number


COMMANDS: dict[str, Command] = {
    "help": Command("", "this list", _help),
    "undo": Command("[N]", "take the last turn, or the last N turns, back", _undo),
    "retry": Command("", "draw another reply to the last message", _retry),
    "more": Command("", "let the model go on without a message", _more),
    "branch": Command("[NAME]", "go on in a copy of the talk, or return to one; or list them", _branch),
    "save": Command("FILE", "write the talk to a file", _save),
    "load": Command("FILE", "go on with a talk from a file", _load),
    "seed": Command("[N]", "show the seed, or draw the next replies with another one", _seed),
    "params": Command("[NAME=VALUE ...]", "show the options of the replies, or change some", _params),
    "template": Command("[NAME|FILE]", "show or change how messages are written", _template),
    "system": Command("TEXT", "say something in the template's system role", _system),
    "quit": Command("", "end the talk; so does Ctrl-D", _quit),
}
