"""Show under which licences gpt2, the bundled model and what they need may be used and passed on.

    gpt2 licenses
    gpt2 licenses --json

Read from what is installed. A package that does not say its licence is shown as such: it is not a permission.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from gpt2.cli.terminal import Terminal, columns, pad

MODEL_NOTICE = (
    "MIT, as gpt2 itself. Its weights were trained by the recipe in this project (recipes/demo) on "
    "public-domain novels; provided as is, without warranty. Other models have licences of their own."
)
UNKNOWN = "not stated"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object per package")


def run(args: Namespace) -> int:
    packages = [(found.metadata["Name"], found.version, licence_of(found)) for found in needed("gpt2")]
    if args.json:
        import json

        for name, version, licence in packages:
            print(json.dumps({"package": name, "version": version, "licence": licence}))
        return 0
    terminal = Terminal(sys.stdout)
    print(licence_text(distribution("gpt2")).strip() + "\n")
    print(f"{terminal.paint('The bundled model', 'bold')}: {MODEL_NOTICE}\n")
    print(terminal.paint("Installed with gpt2:", "bold"))
    width = max(columns(f"{name} {version}") for name, version, _ in packages)
    for name, version, licence in packages[1:]:
        print(f"  {pad(f'{name} {version}', width)}  {licence}")
    return 0


def needed(name: str) -> Iterator[Distribution]:
    """The installed distribution and all that it needs without extras, each once, `name` first."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop(0)).lower()
        if current in seen:
            continue
        seen.add(current)
        try:
            found = distribution(current)
        except PackageNotFoundError:
            continue  # needed on other systems only
        yield found
        for requirement in found.requires or []:
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[\s;\[<>=!~(]", requirement, maxsplit=1)[0])


def licence_of(found: Distribution) -> str:
    """The licence in one line: the SPDX expression, else the classifiers, else the field."""
    fields = found.metadata.json
    if expression := fields.get("license_expression"):
        return str(expression)
    classifiers = [str(c) for c in fields.get("classifier", []) if str(c).startswith("License ::")]
    if classifiers:
        return ", ".join(c.split(" :: ")[-1] for c in classifiers)
    return (str(fields.get("license") or "").strip() or UNKNOWN).splitlines()[0]


def licence_text(found: Distribution) -> str:
    """The licence file that is installed with a package, or its name where there is none."""
    for path in found.files or []:
        if path.name.startswith("LICENSE"):
            return path.read_text()
    return found.read_text("licenses/LICENSE") or licence_of(found)
