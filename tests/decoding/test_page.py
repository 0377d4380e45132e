"""docs/reference/sampling.md is what the fields, presets and rules say."""

from __future__ import annotations

import runpy

from gpt2.decoding import option_specs
from machine import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_the_page_is_what_the_code_prints() -> None:
    printer = runpy.run_path(str(REFERENCE / "print_sampling.py"))
    text = (REFERENCE / "sampling.md").read_text(encoding="utf-8")
    assert text == printer["page"](), "out of date: just docs"
    assert all(f"| `{spec.name}` |" in text for spec in option_specs())
