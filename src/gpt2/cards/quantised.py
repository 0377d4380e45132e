"""A quantised copy of a model directory, with its card: what `gpt2 quantize` does.

The copy is measured as a user will load it, from the files just written, before it takes its place. Knows the
rounding (gpt2.quant) only as a function, and no command line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpt2
from gpt2.cards.card import write_card
from gpt2.cards.directory import check_free, new_directory
from gpt2.cards.measure import SAMPLES, Progress, compare
from gpt2.config import GPT2Config
from gpt2.engine import load
from gpt2.errors import InvalidRequest, WeightsError
from gpt2.quant import quantise
from gpt2.weights import Weights, fingerprint, infer_config, open_weights, save_safetensors
from gpt2.weights.hub import resolve
from gpt2.weights.scheme import KEY, Scheme

COPIED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "LICENSE", "LICENSE.txt",
    "LICENSE.md", "NOTICE",
)  # fmt: skip
"""Files of the source that are right for the copy, too. Its README and its card are not."""

# Keys of config.json that name the dtype of the file.
DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class Quantised:
    """What quantise_directory wrote."""

    path: Path
    card: dict[str, Any]


def quantise_directory(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    scheme: Scheme,
    *,
    text: str | None = None,
    samples: int = SAMPLES,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress = lambda _: None,
) -> Quantised:
    """Write `source` (as gpt2.load takes it) with the matrices of `scheme` into the new directory `output`.

    `text` is a held-out text to measure both models on; without one the card says only how far the copy's
    distributions are from the source's, on `samples` texts that the source writes. Raises InvalidRequest (a
    source that is quantised already, an output that is there already), and whatever loading a model raises.
    What fails leaves nothing behind.
    """
    name = "demo" if source is None else os.fspath(source)
    name = Path(name).resolve().name if os.path.exists(name) else name  # a card tells no paths of a machine
    check_free(Path(os.path.abspath(output)))
    path = Path(resolve(source))
    _, weights = _open(path)
    with new_directory(output) as scratch:
        progress(f"rounding to {scheme}")
        size = write_quantised(path, scratch, scheme)
        original = load(path, weights="auto", threads=threads, isa=isa)
        model = load(scratch, threads=threads, isa=isa)
        quality = compare(original, model, text=text, samples=samples, progress=progress)
        progress("hashing")
        whole = fingerprint(path)
        made = fingerprint(scratch)
        card = {
            "made_by": {"gpt2": gpt2.__version__, "command": "quantize"},
            "source": {"name": name, "sha256": whole.whole, "files": dict(whole.files)},
            KEY: scheme.to_dict(),
            "weight_bytes": {"source": weights.nbytes, "model": size},
            "quality": {"isa": model.isa, "source_weights": original.weights, **quality},
            "files": dict(made.files),
        }
        write_card(scratch, card)
    return Quantised(Path(output), {"card": 1, **card})


def _open(path: Path) -> tuple[GPT2Config, Weights]:
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        config = GPT2Config.from_json(folder)
    else:
        config = infer_config(open_weights(path)).config
    if (scheme := Scheme.of(config)) is not None:
        raise InvalidRequest(
            "the model is quantised already",
            where=str(path),
            got=str(scheme),
            expected="float32, float16 or bfloat16 weights",
            likely="rounding a second time would lose twice",
        )
    return config, open_weights(path, config)


def write_quantised(source: str | os.PathLike[str] | None, folder: Path, scheme: Scheme) -> int:
    """Write the files of the copy, without measuring it and without a card, into `folder`, which exists.

    Returns the bytes of its tensors. Raises as quantise_directory.
    """
    path = Path(resolve(source))
    config, weights = _open(path)
    made = {tensor.name: tensor for tensor in quantise(weights, config, scheme)}
    metadata = {"format": "pt", KEY: json.dumps(scheme.to_dict())}
    save_safetensors(folder / "model.safetensors", made, metadata, align=64)
    extra = {key: value for key, value in config.extra.items() if key not in DTYPE_KEYS}
    said = dataclasses.replace(config, extra={**extra, KEY: scheme.to_dict()})
    origin = path if path.is_dir() else path.parent
    name = "config.json"
    try:
        said.save(folder)
        for name in COPIED:
            if (origin / name).is_file():
                shutil.copyfile(origin / name, folder / name)
    except OSError as error:
        raise WeightsError("the file cannot be written", where=name, got=error.strerror) from None
    return sum(tensor.nbytes for tensor in made.values())
