"""Print the reference pages from the code, so that they cannot say what it does not do.

    python docs/reference/print_pages.py

writes cli.md (from the argument parsers) and python-api.md (from the public names and their docstrings)
beside this file; tests/test_house.py fails when what is on the disk differs. Only facts that do not depend on
the Python version are printed: argparse's own layout does.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import gpt2
import gpt2.errors
from gpt2.cli.main import COMMANDS, load_command

HERE = Path(__file__).resolve().parent
NOTE = "<!-- Printed by docs/reference/print_pages.py; change the code, then run: just docs -->\n"


def pages() -> dict[str, str]:
    """File name -> text of every printed page."""
    return {"cli.md": cli_page(), "python-api.md": api_page()}


def cli_page() -> str:
    parts = [NOTE, "# The command line\n", CLI_INTRO]
    for name, (_, summary) in COMMANDS.items():
        _, parser = load_command(name)
        parts += [f"## gpt2 {name}\n", f"{summary}.\n", *_description(parser), *_arguments(parser)]
    return "\n".join(parts)


CLI_INTRO = """\
`gpt2 COMMAND [ARGUMENTS]`; `gpt2 --help` lists the commands, `gpt2 --version` prints the version.

Results go to stdout, notes, progress and errors to stderr. The exit code is 0 done, 1 an error (its text is
on stderr; `--debug` adds the traceback), 2 wrong usage, 130 Ctrl-C. Colour is for terminals: `NO_COLOR=1`
turns it off, `FORCE_COLOR=1` turns it on in a pipe. A prompt that begins with `-` comes after `--`.
"""


def _description(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The command's docstring without its first sentence (the summary says it); examples stay as they are."""
    _, _, rest = (parser.description or "").partition("\n\n")
    for block in rest.split("\n\n"):
        if block.startswith("    "):
            yield f"```sh\n{textwrap.dedent(block)}\n```\n"
        elif block:
            yield f"{block}\n"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [_row(action) for action in parser._actions if action.help is not argparse.SUPPRESS]
    yield "\n".join(["| argument | meaning |", "|---|---|", *rows, ""])


def _row(action: argparse.Action) -> str:
    names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest}`"
    if action.choices:
        names += " " + "\\|".join(map(str, action.choices))
    elif action.option_strings and action.nargs != 0:
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        names += f" {metavar}".replace("|", "\\|")
    text = (action.help or "").replace("%%", "%") % {"default": action.default}
    return f"| {names} | {text.replace('|', chr(92) + '|')} |".replace(
        "show this help message and exit", "show this help"
    )


def api_page() -> str:
    parts = [
        NOTE,
        "# The Python API\n",
        "Every name below is public: `import gpt2` and use it as `gpt2.NAME`.\n",
    ]
    for name in sorted(gpt2.__all__, key=str.lower):
        thing = getattr(gpt2, name)
        if inspect.isclass(thing):
            parts += list(_class(name, thing))
        elif inspect.isroutine(thing):
            parts += [f"## {name}\n", _signature(name, thing), _doc(thing)]
        elif inspect.ismodule(thing):
            parts += [f"## {name}\n", _doc(thing)]
    parts += ["## The exceptions\n", "They are in `gpt2.errors`.\n", _doc(gpt2.errors)]
    return "\n".join(part for part in parts if part)


def _class(name: str, cls: type) -> Iterator[str]:
    yield f"## {name}\n"
    if issubclass(cls, BaseException):
        yield f"Exception, a kind of `{cls.__mro__[1].__name__}`.\n" if cls is not gpt2.Error else ""
        yield _doc(cls) if "__doc__" in vars(cls) else ""
        return
    if dataclasses.is_dataclass(cls):
        yield _doc(cls) if not (cls.__doc__ or "").startswith(f"{cls.__name__}(") else ""
        yield from _fields(cls)
    else:
        yield _doc(cls)
    for method, value in vars(cls).items():
        if method.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"**`.{method}`**\n"
            yield _doc(value)
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            function = getattr(cls, method)
            yield _signature(f"{name}.{method}" if not inspect.isfunction(value) else f".{method}", function)
            yield _doc(function)


def _fields(cls: type) -> Iterator[str]:
    """A table of a dataclass: the string under a field is its meaning."""
    meanings = _attribute_docs(cls)
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for field in dataclasses.fields(cls):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        kind = str(field.type).replace("|", "\\|")
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        yield f"| `{field.name}` | {kind} | {default} | {meaning} |"
    yield "\n"


def _attribute_docs(cls: type) -> dict[str, str]:
    import ast

    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    found, previous = {}, None
    for node in getattr(body, "body", []):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and previous:
            found[previous] = " ".join(str(node.value.value).split())
        is_field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        previous = node.target.id if is_field else None
    return found


def _signature(name: str, function: object) -> str:
    try:
        text = str(inspect.signature(function))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        text = "(...)"
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("(self, ", "(").replace("(self)", "()")
    return f"```python\n{name}{text}\n```\n"


def _doc(thing: object) -> str:
    text = inspect.getdoc(thing) or ""
    blocks = text.split("\n\n")
    fenced = [f"```text\n{block}\n```" if block.startswith("    ") else block for block in blocks]
    return "\n\n".join(fenced) + "\n" if text else ""


if __name__ == "__main__":
    for page, text in pages().items():
        (HERE / page).write_text(text, encoding="utf-8")
