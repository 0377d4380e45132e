"""Where a run keeps what it has reached, so that nothing that can happen to a machine loses it.

A checkpoint is a folder `step-00000100` with safetensors files and a `manifest.json` that has the SHA-256 of
each and its own. It is written under another name: every file is synced, then the folder, then it is renamed
and the folder above synced. So a folder with that name is whole, whatever was killed or cut off, and the ones
before it are deleted only after the new one has been read back. `best-00000100` has the weights alone.

    with Store(run / "checkpoints").locked() as store:      a second process is refused
        store.save(100, {"model": {...}, "optimizer": {...}}, facts)
        newest = store.newest()                             the newest that is whole
        newest.tensors("model"), newest.facts

Nothing in it is a pickle. Knows no model and no optimiser: names, arrays, and facts that are JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.errors import CheckpointError, CorruptFile, Error, FolderInUse
from gpt2.weights import Tensor, read_safetensors, save_safetensors
from gpt2.weights.disk import Held, lock, sha256_of, sync_folder
from gpt2.weights.tensor import Array

MANIFEST = "manifest.json"
FORM = 1
_NAME = re.compile(r"(step|best)-(\d{8,})")
_MAX_MANIFEST = 16 << 20

Say = Callable[[str], None]
Parts = Mapping[str, Mapping[str, "Array | Tensor"]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that is whole."""

    path: Path
    step: int
    facts: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The arrays of one part, mapped and read-only."""
        return dict(read_safetensors(self.path / f"{part}.safetensors"))


class Store:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, say: Say = lambda _: None) -> None:
        self.folder, self.keep, self.say = Path(folder), keep, say

    @contextlib.contextmanager
    def locked(self) -> Iterator[Store]:
        """Hold the folder alone. Raises FolderInUse; the lock ends with the process, however that ends."""
        with contextlib.ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock(self.folder / "lock"))
            except OSError as error:
                raise CheckpointError(
                    "the folder cannot be written", where=str(self.folder), got=error.strerror
                ) from None
            except Held as error:
                raise FolderInUse(
                    "another process trains in this folder",
                    where=str(self.folder),
                    got=f"process {error.owner}",
                    hint="wait for it, end it, or take another folder",
                ) from None
            self._tidy()
            yield self

    def save(self, step: int, parts: Parts, facts: Mapping[str, Any], *, kind: str = "step") -> Path:
        """Write one; older ones beyond `keep` go when it is there. Raises CheckpointError: then nothing is
        lost that was there before."""
        target = self.folder / f"{kind}-{step:08d}"
        scratch = self.folder / f".{target.name}.part"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            files = {}
            for part, tensors in parts.items():
                path = save_safetensors(scratch / f"{part}.safetensors", tensors)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            _write(scratch / MANIFEST, _manifest(step, dict(facts), files))
            sync_folder(scratch)
            if target.exists():  # the same step of a run that was cut and took this way again
                self._remove(target)
            os.rename(scratch, target)
            sync_folder(self.folder)
            read(target)
        except (OSError, Error) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise CheckpointError(
                "the checkpoint cannot be written",
                where=str(target),
                got=error.strerror if isinstance(error, OSError) else str(error),
                likely=self._kept(),
            ) from None
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        self._prune()
        return target

    def steps(self, kind: str = "step") -> list[int]:
        """The steps of which there is one, oldest first; whether they are whole is not looked at."""
        found = (
            [_NAME.fullmatch(entry.name) for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        )
        return sorted(int(match[2]) for match in found if match and match[1] == kind)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole. Those that are damaged are said loudly and set aside, not deleted.

        Raises CheckpointError where there are some and none of them is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.folder / f"step-{step:08d}"
            try:
                return read(path)
            except Error as error:
                aside = self._aside(path)
                self.say(
                    f"WARNING: the checkpoint of step {step} is damaged and is not used "
                    f"({error.what}); it is kept as {aside.name}"
                )
        if steps:
            raise CheckpointError(
                "no checkpoint is whole", where=str(self.folder), got=f"{len(steps)} damaged",
                hint="start again in another folder",
            )  # fmt: skip
        return None

    def best(self, step: int) -> Checkpoint:
        """The weights that were kept as the best. Raises CheckpointError, CorruptFile."""
        return read(self.folder / f"best-{step:08d}")

    def _kept(self) -> str:
        steps = self.steps()
        return f"the newest checkpoint is that of step {steps[-1]}" if steps else "there is none before it"

    def _prune(self) -> None:
        """Delete what is older than the newest `keep`, and best weights that none of those names."""
        with contextlib.suppress(OSError):  # it costs room, not work; the next save tries again
            steps = self.steps()
            for step in steps[: -self.keep]:
                self._remove(self.folder / f"step-{step:08d}")
            named = set()
            for step in steps[-self.keep :]:
                with contextlib.suppress(Error):
                    named.add(_read_manifest(self.folder / f"step-{step:08d}")["facts"].get("best_step"))
            for step in self.steps("best"):
                if step not in named and step < max(steps, default=0):
                    self._remove(self.folder / f"best-{step:08d}")

    def _remove(self, path: Path) -> None:
        """Under another name first, so that what is half deleted is no checkpoint."""
        gone = self.folder / f".{path.name}.old"
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _aside(self, path: Path) -> Path:
        for number in range(1000):
            aside = path.with_name(f"{path.name}.damaged" + (f".{number}" if number else ""))
            if not aside.exists():
                with contextlib.suppress(OSError):
                    os.rename(path, aside)
                return aside
        return path

    def _tidy(self) -> None:
        """Take away what a killed process was writing or deleting."""
        for entry in self.folder.iterdir():
            if entry.name.startswith(".") and entry.name.endswith((".part", ".old")):
                shutil.rmtree(entry, ignore_errors=True)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder, after every byte of it has been checked. Raises CorruptFile."""
    manifest = _read_manifest(path)
    for name, said in manifest["files"].items():
        file = path / os.path.basename(name)
        try:
            size, digest = file.stat().st_size, sha256_of(file)
        except OSError as error:
            raise CorruptFile(f"{name} cannot be read: {error.strerror}", where=str(path)) from None
        if size != said["bytes"] or digest != said["sha256"]:
            raise CorruptFile(
                f"{name} is not what was written", where=str(path),
                got=f"{size:,} bytes, sha256 {digest[:16]}",
                expected=f"{said['bytes']:,} bytes, sha256 {said['sha256'][:16]}", source=MANIFEST,
            )  # fmt: skip
    return Checkpoint(path, manifest["step"], manifest["facts"])


def _manifest(step: int, facts: dict[str, Any], files: dict[str, Any]) -> bytes:
    body = {"checkpoint": FORM, "step": step, "facts": facts, "files": files}
    return json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False).encode("utf-8") + b"\n"


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    where = str(path / MANIFEST)
    try:
        with open(path / MANIFEST, "rb") as file:
            raw = file.read(_MAX_MANIFEST)
        body = json.loads(raw)
        digest = body.pop("sha256")
        if body["checkpoint"] != FORM or digest != _digest(body):
            raise CorruptFile("the manifest is not what was written", where=where)
    except OSError as error:
        raise CorruptFile(f"the manifest cannot be read: {error.strerror}", where=where) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorruptFile("the manifest is not what was written", where=where) from None
    return dict(body)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
