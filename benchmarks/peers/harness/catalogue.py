"""What is compared: the environments, and the rows of the table (an engine in one width and setting).

The one place where a peer is named. Knows nothing of running them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WIDTHS = ("float32", "bf16", "int8", "int4")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment and what goes into it."""

    name: str
    packages: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    """Installed afterwards with --no-deps: their own requirements would replace what is pinned."""
    variables: dict[str, str] = field(default_factory=dict)
    """For the installation, where a package is built from source."""


@dataclass(frozen=True, slots=True)
class Row:
    """One engine in one width and setting: one worker, one line of the table."""

    name: str
    width: str
    environment: str
    """The Environment it runs in; "" is the interpreter that runs the comparison."""
    adapter: str
    """The module under harness.adapters."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the adapter's Engine takes."""
    model: str = ""
    """The converted model's folder; rows that differ in the settings of a run share it. "" is the name."""
    arithmetic: str = ""
    """Which measured limit of arithmetic bounds its prefill, where that is not the width's own."""

    @property
    def folder(self) -> str:
        return self.model or self.name

    @property
    def is_ours(self) -> bool:
        return self.environment == ""


TORCH = "torch==2.13.0"

ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("transformers", (TORCH, "transformers", "safetensors", "numpy")),
        Environment("onnxruntime", ("onnxruntime", "onnx", "onnx-ir", "sympy", "safetensors", "numpy")),
        Environment("ctranslate2", ("ctranslate2", TORCH, "transformers", "safetensors", "numpy")),
        Environment(
            "openvino",
            (
                TORCH,
                "openvino-genai",
                "transformers<5.6",
                "nncf>=3.3",
                "huggingface-hub<1.22",
                "setuptools",
                "requests",
            ),
            without_dependencies=("optimum==2.3.0", "optimum-intel==2.2.0"),
        ),
        Environment(
            "llamacpp",
            ("llama-cpp-python", "gguf", "safetensors", "numpy"),
            # No wheel: built here, for this processor, with everything that it has.
            variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release"},
        ),
        Environment("plot", ("matplotlib",)),
    )
}


def _ours(width: str, weights: str, cache: str) -> Row:
    options = {"weights": weights, "cache": cache}
    return Row("gpt2 " + width, width, "", "ours", options, f"gpt2-{weights}")


def _transformers(width: str, dtype: str, attention: str) -> Row:
    options = {"dtype": dtype, "attention": attention}
    name = f"transformers {width}, {attention}"
    return Row(name, width, "transformers", "hf_transformers", options, f"transformers-{dtype}")


def _onnxruntime(name: str, width: str, model: str, options: dict[str, Any]) -> Row:
    return Row(name, width, "onnxruntime", "onnxruntime_graph", options, f"onnxruntime-{model}")


def _openvino(name: str, width: str, model: str, precision: str, cache: str) -> Row:
    options = {"weights": model, "precision": precision, "cache": cache}
    arithmetic = "bf16" if precision == "bf16" else ""
    return Row(name, width, "openvino", "openvino_genai_batching", options, f"openvino-{model}", arithmetic)


def _llamacpp(name: str, width: str, kind: str, flash: bool) -> Row:
    options = {"type": kind, "flash": flash}
    label = f"llama.cpp {name}, flash {'on' if flash else 'off'}"
    return Row(label, width, "llamacpp", "llamacpp", options, f"llamacpp-{kind}")


ROWS = (
    _ours("float32", "float32", "float32"),
    _ours("bf16", "bfloat16", "bfloat16"),
    _ours("int8", "int8", "int8"),
    _ours("int4", "int4", "int8"),
    _transformers("float32", "float32", "eager"),
    _transformers("float32", "float32", "sdpa"),
    _transformers("bf16", "bfloat16", "eager"),
    _transformers("bf16", "bfloat16", "sdpa"),
    _onnxruntime("onnxruntime float32", "float32", "float32", {"quantize": "none"}),
    _onnxruntime("onnxruntime int8, dynamic", "int8", "dynamic", {"quantize": "dynamic"}),
    _onnxruntime(
        "onnxruntime int8, MatMulNBits", "int8", "8bits", {"quantize": "blocks", "bits": 8, "block": 32}
    ),
    _onnxruntime(
        "onnxruntime int4, MatMulNBits", "int4", "4bits", {"quantize": "blocks", "bits": 4, "block": 32}
    ),
    Row(
        "CTranslate2 float32", "float32", "ctranslate2", "ctranslate2_generator", {"compute_type": "float32"}
    ),
    Row("CTranslate2 bf16", "bf16", "ctranslate2", "ctranslate2_generator", {"compute_type": "bfloat16"}),
    Row("CTranslate2 int8", "int8", "ctranslate2", "ctranslate2_generator", {"compute_type": "int8"}),
    _openvino("OpenVINO float32", "float32", "fp32", "f32", "f32"),
    _openvino("OpenVINO bf16", "bf16", "fp16", "bf16", "bf16"),
    _openvino("OpenVINO int8", "int8", "int8", "f32", "u8"),
    _openvino("OpenVINO int8, bf16 arithmetic", "int8", "int8", "bf16", "u8"),
    _openvino("OpenVINO int4", "int4", "int4", "f32", "u8"),
    *(_llamacpp("F32", "float32", "f32", flash) for flash in (False, True)),
    *(_llamacpp("BF16", "bf16", "bf16", flash) for flash in (False, True)),
    *(_llamacpp("Q8_0", "int8", "q8_0", flash) for flash in (False, True)),
    *(_llamacpp("Q4_0", "int4", "q4_0", flash) for flash in (False, True)),
)


def select(rows: tuple[Row, ...], only: list[str], widths: list[str]) -> list[Row]:
    """The rows of these widths (all when none is named) whose name has one of the words of `only`."""
    return [
        row
        for row in rows
        if (not widths or row.width in widths)
        and (not only or any(word.lower() in row.name.lower() for word in only))
    ]
