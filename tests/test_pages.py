"""What the pages show is run: their Python in order, in one namespace, on the bundled model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from machine import ROOT

PAGES = ROOT / "docs" / "how-to"
RUN = (
    "chat-in-a-terminal.md",
    "choose-a-strategy.md",
    "from-transformers.md",
    "prepare-data.md",
    "talk-in-turns.md",
    "use-adapters.md",
    "write-a-template.md",
)


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", RUN)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for toml in blocks(page, "toml"):
        name = re.findall(r'^name = "(\w+)"', toml, flags=re.MULTILINE)[0]
        Path(f"{name}.toml").write_text(toml, encoding="utf-8")
    namespace: dict[str, object] = {}
    for at, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page}, block {at}", "exec"), namespace)


@pytest.mark.parametrize("page", RUN)
def test_the_shell_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """Lines that need a terminal of their own are marked as text."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=os.environ | {"PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout
