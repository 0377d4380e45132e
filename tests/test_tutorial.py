"""The tutorial that tunes a model is run, command after command in one folder, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from machine import ROOT

PAGE = ROOT / "docs" / "tutorial" / "tune-a-model.md"


def test_a_text_file_becomes_a_tuned_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'gpt2[train]'")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    blocks = re.findall(
        r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    said = []
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=os.environ | {"PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout.strip()
        said.append(done.stdout)
    assert len(said) == 3
    assert "degrees" not in said[0].splitlines()[-1], "the model knows such reports already"
    assert " degrees, wind from the " in said[1], "nothing was learnt"
    assert (tmp_path / "weather" / "model.safetensors").is_file()
