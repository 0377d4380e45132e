"""Each peer's model files, made from the checkpoint by that peer's own tools in its own environment.

    python -m harness.conversion ADAPTER CHECKPOINT FOLDER OPTIONS

is the part that runs there. Done once for each shape and model; a failure is a reason in the table.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from harness import environments
from harness.catalogue import Row


def ensure(row: Row, cache: Path, shape: str) -> str:
    """Make the row's model files unless they are there. The reason why it cannot be done, or ""."""
    folder = cache / "shapes" / shape / row.folder
    reason = environments.status(cache, row.environment).get("error", "")
    if folder.is_dir() or reason:
        return str(reason)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    done = subprocess.run(
        [
            str(environments.python(cache, row.environment)),
            *("-m", "harness.conversion", f"harness.adapters.{row.adapter}"),
            *(str(folder.with_name("checkpoint")), str(part), json.dumps(row.options)),
        ],
        cwd=environments.PEERS,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(part)
        lines = done.stderr.strip().splitlines()
        return lines[-1][:200] if lines else f"the conversion ended with status {done.returncode}"
    part.rename(folder)
    return ""


def megabytes(row: Row, cache: Path, shape: str) -> float:
    """The size of the files that the engine reads: its own, or the checkpoint's weights."""
    folder = cache / "shapes" / shape / row.folder
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return (own or (folder.with_name("checkpoint") / "model.safetensors").stat().st_size) / 1e6


def main() -> None:
    adapter, checkpoint, folder, options = sys.argv[1:]
    importlib.import_module(adapter).convert(Path(checkpoint), Path(folder), json.loads(options))


if __name__ == "__main__":
    main()
