"""What is already on this machine: Hugging Face's cache, read as files.

The layout is huggingface_hub's own, so that models which transformers has downloaded are found too:

    HF_HOME/hub/models--ORG--NAME/refs/main                 the commit that "main" was at the last visit
    HF_HOME/hub/models--ORG--NAME/snapshots/COMMIT/FILE     links into ../../blobs

Reading it needs neither the network nor the huggingface_hub package, whose import takes longer than loading a
model. Knows nothing of how files get there (hub.py).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_INDEX = 2 << 20


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model on this machine."""

    id: str
    """The hub's id, as in openai-community/gpt2; "demo" is the model that comes with the package."""
    revision: str | None
    """The commit; None for the bundled model."""
    size: int
    """Bytes of its files on disk."""
    path: Path
    """The directory to open."""
    files: tuple[str, ...]
    """Names of its files, sorted."""


def cache_folder() -> Path:
    """Where huggingface_hub keeps downloads, from HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME as it reads
    them."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(os.path.expandvars(value)).expanduser()
    if value := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(value)).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expandvars(cache)).expanduser() / "huggingface" / "hub"


def find_snapshot(model: str, revision: str | None = None) -> Path | None:
    """The newest known snapshot directory of a hub id at `revision` (a commit, a branch or a tag), or
    None."""
    folder = cache_folder() / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def has_weights(folder: Path) -> bool:
    """Whether the config and every file of the weights are there (an interrupted download leaves some
    out)."""
    if not (folder / "config.json").is_file():
        return False
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return True
        shards = _shards(folder / index)
        if shards and all((folder / name).is_file() for name in shards):
            return True
    return False


def has_tokenizer(folder: Path) -> bool:
    """Whether a vocabulary is there in one of the forms that the tokenizer reads."""
    return any(
        all((folder / name).is_file() for name in names)
        for names in (("tokenizer.json",), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
    )


def cached_models() -> Iterator[CachedModel]:
    """Every GPT-2 in the cache that can be opened, by id. What is there but damaged is passed over."""
    try:
        folders = sorted(cache_folder().glob("models--*"))
    except OSError:
        return
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshots = sorted((folder / "snapshots").glob("*"))
        for snapshot in snapshots:
            if _COMMIT.fullmatch(snapshot.name) and has_weights(snapshot) and _is_gpt2(snapshot):
                yield described(name, snapshot.name, snapshot)


def described(name: str, revision: str | None, folder: Path) -> CachedModel:
    """The record of a model directory."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    )
    size = sum((folder / file).stat().st_size for file in files)
    return CachedModel(name, revision, size, folder, tuple(files))


def _shards(index: Path) -> set[str]:
    raw = _json(index)
    weight_map = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(weight_map, dict):
        return set()
    return {
        name for name in weight_map.values() if isinstance(name, str) and "/" not in name and "\0" not in name
    }


def _is_gpt2(folder: Path) -> bool:
    raw = _json(folder / "config.json")
    return isinstance(raw, dict) and raw.get("model_type", "gpt2") == "gpt2"


def _json(path: Path) -> object:
    """The contents, or None: whether they are right is for the readers to say."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(_MAX_INDEX))
    except (OSError, ValueError, RecursionError):
        return None
