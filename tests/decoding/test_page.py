"""docs/reference/sampling.md is what the fields, presets and rules say."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

import gpt2
from gpt2.decoding import PhrasalConstraint, option_specs
from machine import ROOT


@pytest.fixture(scope="module")
def demo() -> Any:
    return gpt2.load(threads=1)


REFERENCE = ROOT / "docs" / "reference"


def test_the_page_is_what_the_code_prints() -> None:
    printer = runpy.run_path(str(REFERENCE / "print_sampling.py"))
    text = (REFERENCE / "sampling.md").read_text(encoding="utf-8")
    assert text == printer["page"](), "out of date: just docs"
    assert all(f"| `{spec.name}` |" in text for spec in option_specs())


@pytest.mark.parametrize("spec", option_specs(), ids=lambda spec: spec.name)
def test_the_example_of_every_option_runs(demo: Any, spec: Any) -> None:
    options = eval(f"dict({spec.example})", {"PhrasalConstraint": PhrasalConstraint})
    assert options[spec.name] != spec.default, "an example shows the option at work"
    given = {"max_new_tokens": 4, "seed": 1, **options}
    result = demo.generate("Once upon a time", **given)
    assert result
