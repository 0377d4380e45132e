"""Short forms of benchmarks/reliability: kills at random moments, and faults in system calls of a save."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from machine import ROOT

COMMANDS = ROOT / "benchmarks" / "reliability"


def run(name: str, *arguments: str) -> dict[str, object]:
    command = [sys.executable, str(COMMANDS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    return facts


def test_a_run_that_is_killed_ends_with_the_bits_that_it_would_have_had() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    facts = run("kill_training.py", "--kills", "4", "--steps", "16")
    assert facts["kills"] == 4
    assert facts["differences"] == 0


def test_a_fault_in_any_system_call_of_a_save_loses_nothing(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    traced = subprocess.run(["strace", "-o", str(tmp_path / "log"), "true"], capture_output=True, check=False)
    if traced.returncode:
        pytest.skip("needs the right to trace processes (ptrace)")
    facts = run("fault_saves.py", "--every", "80")
    assert facts["lost"] == 0
