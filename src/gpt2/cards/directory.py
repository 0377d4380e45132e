"""Write a directory whole or not at all.

Everything is written into a hidden folder beside the target, synced, and renamed. Whatever interrupts it (an
error, Ctrl-C) takes the hidden folder away; a power cut leaves the target absent, or whole. Knows nothing of
models.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.errors import InvalidRequest, WeightsError
from gpt2.weights.disk import sync_folder


@contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder to write into; it becomes `path` when the block ends without an error.

    `path` must not exist, or be an empty directory. Raises InvalidRequest otherwise, at once; WeightsError
    where the disk refuses.
    """
    target = Path(os.path.abspath(path))
    check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise WeightsError("the directory cannot be made", where=str(target), got=error.strerror) from None
    try:
        yield scratch
        try:
            sync(scratch)
            check_free(target)
            os.chmod(scratch, 0o755)
            os.rename(scratch, target)  # onto nothing, or onto an empty directory
            sync_folder(target.parent)
        except OSError as error:
            raise WeightsError(
                "the directory cannot be written", where=str(target), got=error.strerror
            ) from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def check_free(target: Path) -> None:
    """Raise InvalidRequest where something is there that writing `target` would replace."""
    if not os.path.lexists(target) or (
        target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    ):
        return
    raise InvalidRequest(
        "the output is there already",
        where=str(target),
        expected="a new directory, or an empty one",
        hint="another --output, or remove the old one",
    )


def sync(folder: Path) -> None:
    for entry in sorted(folder.iterdir()):
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)
