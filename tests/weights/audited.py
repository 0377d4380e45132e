"""Open files under an audit hook; print what Python was asked to do meanwhile. Used by test_hostile.py.

Reads {"title": "path"} as JSON from stdin. The hook sees every import, exec, compile, open, socket and
process of the interpreter. Expected, and not reported: opening and mapping a file in the folder of the path
that is being read, and looking for the names of that folder.
"""

from __future__ import annotations

import json
import os
import sys

import gpt2.weights.torch_legacy
import gpt2.weights.torch_zip  # noqa: F401  imported here, so that their import is no event later
from gpt2.errors import WeightsError
from gpt2.weights import open_weights

EXPECTED = ("mmap.", "object.__getattr__", "code.__new__", "sys._getframe")


def main() -> None:
    paths: dict[str, str] = json.load(sys.stdin)
    events: dict[str, list[str]] = {}
    current: list[tuple[str, str]] = []

    def hook(event: str, args: tuple[object, ...]) -> None:
        if not current or event.startswith(EXPECTED):
            return
        title, folder = current[-1]
        if event in ("open", "os.scandir", "os.listdir"):
            where = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else str(args[0])
            if where.startswith(folder):
                return
        events.setdefault(title, []).append(f"{event} {args!r}"[:200])

    sys.addaudithook(hook)
    # The hook must be able to catch something, or its silence would say nothing.
    current.append(("control", "/nowhere"))
    exec(compile("1", "control", "exec"))
    current.clear()
    caught = len(events.pop("control", []))
    opened = 0
    for title, path in paths.items():
        current.append((title, os.path.dirname(path)))
        try:
            open_weights(path)
        except WeightsError as error:
            opened += 1
            del error
        finally:
            current.clear()
    report = {"events": events, "opened": opened, "torch": "torch" in sys.modules, "control": caught}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
