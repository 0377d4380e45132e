"""From a model's name to a directory: the bundled model, a local path, the cache, and only then the hub.

`resolve` is what loading uses: where the files are on this machine it makes no network call and does not
import huggingface_hub. `pull` asks the hub. All downloading, resuming, locking and checking of hashes is
huggingface_hub's; HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT mean what they mean there. This file adds
the names, the choice of files, and errors that say what to do. It knows nothing of what is inside the files.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from gpt2.errors import Error, HubError, ModelNotFound
from gpt2.weights.hub_cache import (
    CachedModel,
    cache_folder,
    cached_models,
    described,
    find_snapshot,
    has_tokenizer,
    has_weights,
)

ALIASES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""Short names of the released models."""

BUNDLED = "demo"
"""The name of the model that comes with the package."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes known so far to be needed; from several threads, one at a time."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_OTHER_FILES = [
    "config.json", "generation_config.json", "card.json", "LICENSE*",
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
]  # fmt: skip
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors"]
_TORCH = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin"]


def resolve(model: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Path:
    """The directory (or file) to open for `model`; downloads only what is not on this machine.

    None or "demo" is the bundled model; a path is itself; anything else is a hub id, or a short name of
    ALIASES. Raises ModelNotFound (which says where was looked, and what was perhaps meant) or HubError.
    """
    if model is None or model == BUNDLED:
        return bundled()
    name = os.fspath(model)
    local = _local(name, explicit=isinstance(model, os.PathLike))
    if local is not None:
        return local
    if not _ID.fullmatch(name) or ".." in name or "--" in name:
        raise _no_such_path(name)
    id = ALIASES.get(name, name)
    snapshot = find_snapshot(id, revision)
    if snapshot is not None and has_weights(snapshot) and has_tokenizer(snapshot):
        return snapshot
    try:
        return pull(id, revision)
    except Error:
        # A model without a vocabulary can still score ids; whoever needs one will say that it is missing.
        if snapshot is not None and has_weights(snapshot):
            return snapshot
        raise


def bundled() -> Path:
    """The directory of the model that comes with the package."""
    folder = Path(__file__).resolve().parent.parent / "assets" / "demo"
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            "the bundled model is missing from this installation",
            where=str(folder),
            hint="install the package again, or name a model: -m DIR or -m openai-community/gpt2",
        )
    return folder


def list_models() -> list[CachedModel]:
    """The models on this machine: the bundled one and every GPT-2 in Hugging Face's cache. No network
    call."""
    out = []
    with contextlib.suppress(ModelNotFound):
        out.append(described(BUNDLED, None, bundled()))
    out.extend(cached_models())
    return out


def pull(model: str, revision: str | None = None, progress: Progress | None = None) -> Path:
    """Download what a GPT-2 needs of a hub model, as far as the cache lacks it. Returns the snapshot's
    directory.

    `revision` is a branch, a tag or a commit; None is "main" as it is now. Safetensors where there are any,
    otherwise the .bin files. Interrupted, it leaves nothing half-written behind, and starts from the whole
    files that are there. Raises ModelNotFound (no such model, revision or weights) or HubError (network,
    rights, disk).
    """
    id = ALIASES.get(model, model)
    if not _ID.fullmatch(id) or ".." in id or "--" in id:
        raise ModelNotFound(
            "this is no model id", got=repr(model[:80]), expected="ORGANISATION/NAME", hint=_near(model)
        )
    with _translated(id, revision):
        folder = _download(id, revision, [*_OTHER_FILES, *_SAFETENSORS], progress)
        if not has_weights(folder):
            folder = _download(id, revision, [*_OTHER_FILES, *_TORCH], progress)
    if not has_weights(folder):
        raise ModelNotFound(
            "the model has no weights that can be read here", where=id,
            got=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "no files",
            expected=", ".join(["config.json and", _SAFETENSORS[0], "or", _TORCH[0]]),
        )  # fmt: skip
    return folder


def _local(name: str, *, explicit: bool) -> Path | None:
    """`name` as a path, if it is one. A bare name needs more than a directory that happens to be called
    so."""
    path = Path(name).expanduser()
    try:
        is_file, is_dir = path.is_file(), path.is_dir()
    except OSError:  # a name that is too long for a path, for one
        return None
    if not name or is_file:
        return path if is_file else None
    if not is_dir:
        if explicit:
            raise _no_such_path(name)
        return None
    bare = not explicit and os.sep not in name and name not in (".", "..")
    return path if not bare or (path / "config.json").is_file() or name not in ALIASES else None


def _no_such_path(name: str) -> ModelNotFound:
    path = Path(name).expanduser()
    try:
        siblings = [entry.name for entry in os.scandir(path.parent)] if path.parent.is_dir() else []
    except OSError:
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return ModelNotFound(
        "there is no such file or directory, and it is no model id",
        where=name[:200],
        hint=f"did you mean {str(path.parent / near[0])!r}?" if near else _near(name),
    )


def _near(name: str) -> str | None:
    """ "did you mean" among the short names and what is on this machine."""
    known = [*ALIASES, *ALIASES.values(), BUNDLED, *(model.id for model in cached_models())]
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near and name not in known else None


def _download(id: str, revision: str | None, patterns: list[str], progress: Progress | None) -> Path:
    from huggingface_hub import snapshot_download

    with _quiet():
        return Path(
            snapshot_download(
                id,
                revision=revision,
                allow_patterns=patterns,
                tqdm_class=_progress_class(progress),
                max_workers=4,
            )
        )


def _progress_class(progress: Progress | None) -> Any:
    """A tqdm that draws nothing and reports bytes; huggingface_hub takes a class, not a function."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    bars: list[Any] = []

    class Reporter(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})
            bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if progress is not None and self.counts_bytes:
                counted = [bar for bar in bars if bar.counts_bytes]
                progress(int(max(bar.n for bar in counted)), int(max(bar.total or 0 for bar in counted)))
            return None

    return Reporter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library never prints: neither huggingface_hub's bars nor its warnings, for the time of one call."""
    import logging

    from huggingface_hub import utils

    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not utils.are_progress_bars_disabled()  # type: ignore[attr-defined]
    logger.setLevel(logging.ERROR)
    if had_bars:
        utils.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if had_bars:
            utils.enable_progress_bars()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _translated(id: str, revision: str | None) -> Iterator[None]:
    """huggingface_hub's exceptions, and the disk's, as ours."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise _explain(error, id, revision) from None


def _explain(error: Exception, id: str, revision: str | None) -> Error:
    from huggingface_hub import errors

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    status = next((code for one in chain if (code := _status(one)) is not None), None)
    has_token = bool(os.environ.get("HF_TOKEN"))
    login = "another token in HF_TOKEN: this one may lack the right" if has_token else "HF_TOKEN=YOUR_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound("the hub has no such revision", where=id, got=repr(revision))
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return HubError(
            "the hub refuses access", where=id, got="HTTP 403",
            likely="the model is gated: its terms must be accepted",
            hint=f"accept them at the model's page, then {login}",
        )  # fmt: skip
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return ModelNotFound(
            "the hub has no such model, or does not show it",
            where=id,
            got=f"HTTP {status}" if status else None,
            likely="a model that is private looks the same",
            hint=_near(id) or login,
        )
    if _offline() or any(isinstance(one, errors.OfflineModeIsEnabled) for one in chain):
        return ModelNotFound(
            "the model is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
            where=id,
            expected=f"its files in {cache_folder()}",
            hint=_near(id) or f"HF_HUB_OFFLINE=0 gpt2 pull {id}",
        )
    disk = next((one for one in chain if isinstance(one, OSError) and one.errno in _DISK), None)
    if disk is not None:
        return HubError(
            "the download could not be stored", where=id, got=_DISK[disk.errno or 0],
            expected=f"room and the right to write in {cache_folder()}",
            likely="nothing half-written was left behind",
            hint="free some space, or set HF_HOME to a directory on another disk",
        )  # fmt: skip
    got = f"HTTP {status}" if status else type(chain[-1]).__name__
    return HubError(
        "the hub could not be reached", where=id, got=got,
        likely=None if status else "there is no network connection",
        hint=_near(id) or "again later, or name a local directory",
    )  # fmt: skip


_DISK = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than is allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EIO: "the disk reports an error",
    errno.ENOENT: "the directory cannot be made",
    errno.ENOTDIR: "a part of the path is no directory",
}


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _offline() -> bool:
    """HF_HUB_OFFLINE as huggingface_hub reads it."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")
