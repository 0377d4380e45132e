"""Where things lie, and one virtual environment for each peer, made from published packages.

Layout of the cache folder: venvs/NAME, shapes/SHAPE/{checkpoint, MODEL}, and beside each environment
NAME.json with the versions or the reason why it could not be made. Knows pip, nothing of engines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.catalogue import Environment

PEERS = Path(__file__).resolve().parent.parent
CONSTRAINTS = PEERS.parent.parent / "constraints.txt"


def default_cache() -> Path:
    """$GPT2_PEERS_CACHE, or gpt2-peers in the user's cache folder."""
    given = os.environ.get("GPT2_PEERS_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else user / "gpt2-peers"


def python(cache: Path, name: str) -> Path:
    """The interpreter of an environment; "" is the one that runs this."""
    return cache / "venvs" / name / "bin" / "python" if name else Path(sys.executable)


def status(cache: Path, name: str) -> dict[str, Any]:
    """{"versions": {...}} or {"error": reason}."""
    if not name:
        return {"versions": {}}
    path = cache / "venvs" / f"{name}.json"
    if not path.is_file():
        return {"error": "not installed: python benchmarks/peers/setup.py"}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def make(cache: Path, environment: Environment) -> dict[str, Any]:
    """Create the environment, or complete it; what came of it is written beside it and returned."""
    folder = cache / "venvs" / environment.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    began = time.monotonic()
    result: dict[str, Any] = {}
    with log.open("w") as output:
        if not (folder / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, stdout=output)
        ok = _install(folder, environment, output)
    if ok:
        result["versions"] = _versions(folder, environment)
    else:
        result["error"] = _reason(log.read_text())
    result["seconds"] = round(time.monotonic() - began)
    folder.with_suffix(".json").write_text(json.dumps(result, indent=2))
    return result


def _install(folder: Path, environment: Environment, output: Any) -> bool:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--constraint", str(CONSTRAINTS)]
    commands = [[*pip, *environment.packages]]
    if environment.without_dependencies:
        commands.append([*pip, "--no-deps", *environment.without_dependencies])
    variables = os.environ | environment.variables
    return all(
        subprocess.run(command, env=variables, stdout=output, stderr=output, check=False).returncode == 0
        for command in commands
    )


def _versions(folder: Path, environment: Environment) -> dict[str, str]:
    """Of the packages that were named, and of what they are built on."""
    listing = subprocess.run(
        [str(folder / "bin" / "python"), "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {_bare(package["name"]): package["version"] for package in json.loads(listing.stdout)}
    named = [_bare(p) for p in (*environment.packages, *environment.without_dependencies)]
    return {name: installed[name] for name in [*named, "openvino"] if name in installed}


def _bare(requirement: str) -> str:
    """The package's name without the range, as pip normalises it: "nncf>=3.3" is "nncf"."""
    end = next((i for i, letter in enumerate(requirement) if letter in "<>=!~ ["), len(requirement))
    return requirement[:end].lower().replace("_", "-")


def _reason(log: str) -> str:
    """pip's last word on what went wrong."""
    errors = [line.strip() for line in log.splitlines() if "error" in line.lower()]
    return (errors or ["pip failed; see the log beside the environment"])[-1][:200]
