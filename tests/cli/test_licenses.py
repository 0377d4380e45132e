"""gpt2 licenses: our own text in full, the model's notice, a licence for each package of the base."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution

from gpt2.cli import licenses


def run(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gpt2", "licenses", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_text_holds_the_notices() -> None:
    text = run()
    assert text.startswith("MIT License")
    assert "Permission is hereby granted" in text
    assert "The bundled model: MIT" in text
    assert "huggingface_hub" in text.replace("-", "_")


def test_every_package_of_the_base_states_its_licence() -> None:
    records = [json.loads(line) for line in run("--json").splitlines()]
    assert (records[0]["package"], records[0]["licence"]) == ("gpt2", "MIT")
    names = {record["package"].lower() for record in records}
    assert "numpy" in names
    assert not names & {"torch", "transformers"}  # these are extras
    assert [r for r in records if r["licence"] == licenses.UNKNOWN] == []


def test_dependencies_of_dependencies_are_there_once() -> None:
    names = [found.metadata["Name"] for found in licenses.needed("gpt2")]
    assert names[0] == distribution("gpt2").metadata["Name"]
    assert len(names) == len(set(names)) > 4
