"""The model directory that a training run leaves, with its card.

Unlike a copy that is made in one go, a run owns its directory from its beginning: its checkpoints are in
there. So the model's files are written into a hidden folder within it, measured there as a user will load
them, synced, and renamed one by one, the card last: a directory with a card is whole. A run that is cut here
and resumed writes the same files again. Knows no trainer: names, arrays and facts.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gpt2
from gpt2.cards.card import CARD, write_card
from gpt2.cards.directory import sync
from gpt2.cards.quantised import COPIED, DTYPE_KEYS
from gpt2.config import GPT2Config
from gpt2.errors import WeightsError
from gpt2.weights import Tensor, fingerprint, save_safetensors
from gpt2.weights.disk import sync_folder
from gpt2.weights.tensor import Array

SCRATCH = ".model.part"


def write_model(
    output: str | os.PathLike[str],
    config: GPT2Config,
    tensors: Mapping[str, Array | Tensor],
    *,
    origin: Path | None,
    command: str,
    source: Mapping[str, Any] | None,
    measure: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """Write a model's files into `output`, which exists, and return its card.

    Args:
        tensors: canonical names and shapes, all of one dtype.
        origin: the directory whose vocabulary and licence the model has.
        command: what made it: "finetune", "train".
        source: what the weights began as: name and hashes; None for fresh ones.
        measure: is given the folder with all files but the card, and returns the facts that the card states.

    Raises WeightsError where the disk refuses; what was there before is then still there.
    """
    target = Path(output)
    scratch = target / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        save_safetensors(scratch / "model.safetensors", tensors, {"format": "pt"}, align=64)
        dtypes = {t.dtype if isinstance(t, Tensor) else t.dtype.name for t in tensors.values()}
        extra = {key: value for key, value in config.extra.items() if key not in DTYPE_KEYS}
        if len(dtypes) == 1:
            extra["dtype"] = dtypes.pop()
        dataclasses.replace(config, extra=extra).save(scratch)
        for name in COPIED if origin is not None else ():
            if origin is not None and (origin / name).is_file():
                shutil.copyfile(origin / name, scratch / name)
        facts = measure(scratch)
        made = fingerprint(scratch)
        card = {
            "made_by": {"gpt2": gpt2.__version__, "command": command},
            **({} if source is None else {"source": dict(source)}),
            **facts,
            "files": dict(made.files),
        }
        write_card(scratch, card)
        sync(scratch)
        (target / CARD).unlink(missing_ok=True)  # it would speak of other files while they change
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == CARD):
            os.replace(path, target / path.name)
        sync_folder(target)
        scratch.rmdir()
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise WeightsError("the model cannot be written", where=str(target), got=error.strerror) from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return {"card": 1, **card}
