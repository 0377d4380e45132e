"""Show what is inside a model directory or a weights file, and what is wrong with it.

    gpt2 inspect path/to/model
    gpt2 inspect model.safetensors --tensors
    gpt2 inspect pytorch_model.bin --json

Nothing of the file is run, and no tensor is read unless --values asks for it. The exit code is 1 when a
problem was found.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.cli.terminal import Terminal, escape
from gpt2.errors import Error, ModelNotFound, TokenizerError

if TYPE_CHECKING:
    from gpt2.config import GPT2Config
    from gpt2.weights import Scheme, Weights

BYTES = {"float32": 4, "bfloat16": 2}
"""What a parameter takes in memory, by the values of --weights."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a model directory, one weights file, or the name of a model that was pulled",
    )
    parser.add_argument("--tensors", action="store_true", help="a line for each tensor, not for each kind")
    parser.add_argument(
        "--values", action="store_true", help="read every tensor and look for NaN and infinity"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: Namespace) -> int:
    report = look_into(on_this_machine(args.path), values=args.values)
    if args.json:
        import json

        print(json.dumps(as_dict(report)))
    else:
        terminal = Terminal(sys.stdout)
        print("\n".join(lines(report, terminal, every_tensor=args.tensors)))
    return 1 if report.problems else 0


@dataclass
class Report:
    """What was found. A part that could not be read is None, and `problems` says why."""

    path: Path
    config: GPT2Config | None = None
    weights: Weights | None = None
    vocabulary: int | None = None
    """Entries of the vocabulary beside the weights; None where there is none."""
    notes: list[str] = field(default_factory=list)
    """What was guessed, where a file came without a config."""
    problems: list[str] = field(default_factory=list)
    card: dict[str, Any] | None = None
    """card.json: what the model was made from, and what was measured."""


def on_this_machine(name: str) -> Path:
    """A path, or a model's name where it has been pulled; looking into a model never downloads it."""
    from gpt2.weights import hub
    from gpt2.weights.hub_cache import find_snapshot

    if name == hub.BUNDLED:
        return hub.bundled()
    path = Path(name)
    return path if path.exists() else find_snapshot(hub.ALIASES.get(name, name)) or path


def look_into(path: Path, *, values: bool = False) -> Report:
    """Read everything that is there, and go on after a part that is broken.

    Raises ModelNotFound where there is nothing at all.
    """
    from gpt2.config import GPT2Config
    from gpt2.weights import open_weights

    if not path.exists():
        raise ModelNotFound("there is no such file or directory", where=str(path))
    report = Report(path)
    with _noting(report):
        report.weights = open_weights(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (folder / "config.json").is_file():
        with _noting(report):
            report.config = GPT2Config.from_json(folder)
    with _noting(report):
        _check_weights(report, values)
    if path.is_dir():
        with _noting(report):
            _check_vocabulary(report)
        with _noting(report):
            report.card = _card(path)
    return report


@contextmanager
def _noting(report: Report) -> Iterator[None]:
    """An error of ours becomes a problem of the report."""
    try:
        yield
    except Error as error:
        report.problems.append(f"{type(error).__name__}: {error}")


def _check_weights(report: Report, values: bool) -> None:
    """Hold the tensors to the config; a file that comes without one gets the config that its shapes tell."""
    from gpt2.weights import check_weights, infer_config

    if report.weights is None:
        return
    if report.config is not None:
        check_weights(report.weights, report.config, finite=values)
    elif not report.path.is_dir():
        inferred = infer_config(report.weights)
        report.config, report.notes = inferred.config, list(inferred.notes)
        check_weights(report.weights, report.config, finite=values)


def _card(folder: Path) -> dict[str, Any] | None:
    if not (folder / "card.json").exists():
        return None
    from gpt2.cards.card import read_card

    return read_card(folder)


def _check_vocabulary(report: Report) -> None:
    from gpt2.tokenizer import Tokenizer

    report.vocabulary = Tokenizer.load(report.path).vocab_size
    if report.config is not None and report.vocabulary > report.config.vocab_size:
        raise TokenizerError(
            "the vocabulary does not fit the model",
            where=str(report.path),
            got=f"{report.vocabulary:,} entries",
            expected=f"at most {report.config.vocab_size:,}",
            source="config.json (vocab_size)",
        )


def as_dict(report: Report) -> dict[str, Any]:
    """The report for programs."""
    found: dict[str, Any] = {"path": str(report.path), "notes": report.notes, "problems": report.problems}
    if report.config is not None:
        found["config"] = report.config.to_dict()
        found |= {"parameters": report.config.n_params, "size": known_name(report.config)}
        found["memory_bytes"] = memory(report.config)
        if (scheme := _scheme(report.config)) is not None and report.weights is not None:
            found["memory_bytes"][scheme.method] = report.weights.nbytes
    if report.vocabulary is not None:
        found["vocabulary"] = report.vocabulary
    if report.card is not None:
        found["card"] = report.card
    if report.weights is not None:
        found |= {"format": report.weights.format, "metadata": report.weights.metadata}
        found["files"] = [str(file) for file in report.weights.files]
        found["tensors"] = [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes}
            for t in report.weights.values()
        ]
    return found


def memory(config: GPT2Config) -> dict[str, int]:
    """Bytes of the parameters by dtype, and of the float32 keys and values of one full window."""
    sizes = {dtype: config.n_params * size for dtype, size in BYTES.items()}
    return sizes | {"cache": 2 * config.n_layer * config.n_positions * config.n_embd * 4}


def _scheme(config: GPT2Config) -> Scheme | None:
    """How the model is quantised; None where it is not, or where config.json says it wrongly (a problem)."""
    from gpt2.errors import ConfigError
    from gpt2.weights.scheme import Scheme

    try:
        return Scheme.of(config)
    except ConfigError:
        return None


def known_name(config: GPT2Config) -> str | None:
    """The released model of this size, such as gpt2-medium, if there is one."""
    from gpt2.config import KNOWN_SIZES

    return next((name for name, known in KNOWN_SIZES.items() if known.n_params == config.n_params), None)


def lines(report: Report, terminal: Terminal, *, every_tensor: bool) -> Iterator[str]:
    """The report for people."""
    yield terminal.paint(str(report.path), "bold")
    if (c := report.config) is not None:
        head = "tied head" if c.tie_word_embeddings else "own head"
        yield (
            f"  shape       {c.n_layer} layers, {c.n_embd} wide, {c.n_head} heads of {c.head_dim}, "
            f"window {c.n_positions:,}, vocabulary {c.vocab_size:,}, {c.activation_function}, {head}"
        )
        name = known_name(c)
        known = f"; the size of {name}" if name else ""
        yield f"  parameters  {c.n_params:,}{known}"
        if (scheme := _scheme(c)) is not None:
            yield f"  quantised   {scheme}"
        used = memory(c)
        weights = ", ".join(f"{_mb(used[dtype])} as {dtype}" for dtype in BYTES)
        if scheme is not None and report.weights is not None:
            weights = f"{_mb(report.weights.nbytes)} as {scheme.method}"
        yield f"  memory      {weights}; {_mb(used['cache'])} for the cache of a full window"
    if report.vocabulary is not None:
        yield f"  tokens      {report.vocabulary:,} entries"
    if report.card is not None:
        yield from _card_lines(report.card)
    if (w := report.weights) is not None:
        dtypes = ", ".join(sorted({tensor.dtype for tensor in w.values()}))
        files = f" in {len(w.files)} files" if len(w.files) > 1 else ""
        yield f"  weights     {w.format}{files}, {len(w)} tensors, {_mb(w.nbytes)}, {dtypes}"
        yield ""
        yield from _tensor_lines(w, every_tensor)
    yield ""
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        first, *rest = problem.splitlines()
        yield "\n  ".join([f"{terminal.paint('problem:', 'red')} {first}", *rest])
    if not report.problems:
        yield terminal.paint("no problems found", "green")


def _card_lines(card: dict[str, Any]) -> Iterator[str]:
    """What the card says. A card is a file that anybody may have written: nothing in it is taken for
    granted."""

    def get(*keys: str) -> Any:
        value: Any = card
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    name, whole = get("source", "name"), get("source", "sha256")
    if isinstance(name, str) and isinstance(whole, str):
        yield f"  made from   {escape(name[:80])}, sha256 {escape(whole[:16])}..."
    increase = get("quality", "text", "increase_percent")
    divergence = get("quality", "on_samples_of_the_source", "mean_kl_bits")
    parts = [f"{increase:+.3f} % bits per byte on a held-out text"] if isinstance(increase, float) else []
    parts += [f"{divergence:.5f} bits per token from its source"] if isinstance(divergence, float) else []
    before, after = (get("quality", "held_out", "perplexity", which) for which in ("source", "model"))
    if isinstance(after, float):
        was = f", from {before:,.2f}" if isinstance(before, float) else ""
        parts += [f"perplexity {after:,.2f} on held-out text{was}"]
    if parts:
        yield f"  measured    {', '.join(parts)}"


def _tensor_lines(weights: Weights, every_tensor: bool) -> Iterator[str]:
    """One line per tensor, or per kind: tensors whose names differ in a number only, of one dtype and
    shape."""
    kinds = Counter(
        (t.name if every_tensor else re.sub(r"\b\d+\b", "*", t.name), t.dtype, t.shape)
        for t in weights.values()
    )
    width = max((len(name) for name, _, _ in kinds), default=0)
    for (name, dtype, shape), count in kinds.items():
        times = f"  x {count}" if count > 1 else ""
        sizes = " x ".join(map(str, shape)) or "scalar"
        yield f"  {escape(name):<{width}}  {dtype:<8}  {sizes}{times}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
