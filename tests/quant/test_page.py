"""The format's page is enough to read the format: the example's reader, which knows only the page, gives the
same weights."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from gpt2.quant import Scheme, dequantise, quantise
from gpt2.quant.model import EMBEDDINGS
from gpt2.weights import save_safetensors
from gpt2.weights.scheme import GROUPS
from machine import ROOT
from quant.test_model import SMALL, float_model

READER = ROOT / "examples" / "read_quantised.py"
PAGE = (ROOT / "docs" / "formats" / "quantised.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, *GROUPS])
def test_the_reader(group: int | None, symmetric: bool, dtype: str, tmp_path: Path) -> None:
    scheme = Scheme(method="int4" if group else "int8", group=group, symmetric=symmetric)
    config = dataclasses.replace(SMALL, tie_word_embeddings=False)
    made = {t.name: t for t in quantise(float_model(config, dtype), config, scheme)}
    save_safetensors(
        tmp_path / "model.safetensors", made, {"quantization": json.dumps(scheme.to_dict())}, align=64
    )
    read = runpy.run_path(str(READER))["read"](tmp_path)
    for tensor in dequantise(made, config):
        expected = tensor.to_float32()
        got = read.pop(tensor.name)
        if expected.ndim == 2 and tensor.name != "wpe.weight":
            if tensor.name in EMBEDDINGS:
                expected = expected.T
            if symmetric or (group and tensor.name not in EMBEDDINGS):
                assert not got[expected.shape[0] :].any()  # the padding stands for 0
            got = got[: expected.shape[0]]
        assert np.array_equal(got, expected), tensor.name
    assert not read


def test_the_reader_is_short() -> None:
    reader = READER.read_text(encoding="utf-8").partition("if __name__")[0]
    code = [line for line in reader.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 40
    assert f"{len(code)} lines" in reader


def test_the_page_shows_what_is_written() -> None:
    (shown,) = re.findall(r"```json\n(.*)\n```", PAGE)
    assert json.loads(shown) == {"quantization": Scheme(method="int4").to_dict()}
