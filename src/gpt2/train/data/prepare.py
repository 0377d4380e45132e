"""From files of text to a folder of tokens: prepare(["notes.txt"], tokenizer, "prepared").

Three stages. *Tokenise*: every source is read once, in pieces, and what comes of it goes into parts in a
hidden folder (spool.py). *Choose*: what is left out and what is held back is decided from the facts of all
documents (choosing.py). *Write*: the shards, a card (data.md), the list of what was left out, and last of all
the index, without which the folder is nothing.

Killed at any moment and called again it goes on behind the last whole part, and ends with the same bytes. So
it does for any number of threads. Memory is bounded by the number of documents (some 100 bytes each, 700 with
near duplicates), not by their size.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gpt2.errors import DataError, InvalidRequest
from gpt2.tokenizer import Tokenizer
from gpt2.train.data.duplicates import Evaluation
from gpt2.train.data.finishing import finish
from gpt2.train.data.readers import Columns, Piece
from gpt2.train.data.shards import INDEX, Tokens, file_hash, token_type
from gpt2.train.data.sources import Kind, PathLike, Source, find_sources, pieces, read
from gpt2.train.data.spool import Spool
from gpt2.train.data.tokenising import Done, Work, blocks, in_order
from gpt2.weights.disk import Held, lock

WORK = ".work"
PART = 1 << 26
"""Bytes of text in a part: what a kill costs at most, a second of work or less."""

Paths: TypeAlias = PathLike | Iterable[PathLike]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How texts become tokens. The fields are the flags of `gpt2 prepare`."""

    validation: float = 0.05
    """The share of the documents that is held back to measure on; 0 for none."""
    seed: int = 0
    """Which documents that is."""
    text_column: str | None = None
    """The column of tables and JSONL that is the text (without it: "text", or "prompt" and "completion")."""
    prompt_column: str | None = None
    """The column that is context and not learnt."""
    completion_column: str | None = None
    """The column that is learnt after the prompt."""
    separator: str | None = None
    """What stands between the documents of a text file; without it a file is one document."""
    kind: Kind | None = None
    """Read every file as this; without it as its name and content say."""
    include: tuple[str, ...] = ()
    """Patterns of what else in a folder is text, as in "*.py"."""
    exact_duplicates: bool = True
    """Leave out a text that was there before."""
    near_duplicates: float | None = None
    """Leave out a text that has at least this share of its five-word shingles in common with one before
    (Jaccard)."""
    decontaminate: tuple[str, ...] = ()
    """Evaluation files: a document that has `ngram` words in a row in common with one of their texts is left
    out."""
    ngram: int = 13
    """See decontaminate."""
    shard_tokens: int = 1 << 28
    """Tokens of a shard at most, unless one document has more."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation < 1.0:
            raise InvalidRequest("validation", got=self.validation, expected="0 to less than 1")
        if self.near_duplicates is not None and not 0.0 < self.near_duplicates <= 1.0:
            raise InvalidRequest(
                "near_duplicates", got=self.near_duplicates, expected="more than 0, 1 at most; 0.8 is usual"
            )
        if self.separator == "":
            raise InvalidRequest("separator", got="an empty text", expected='a text, as in "<|endoftext|>"')
        for name, least in (("seed", 0), ("ngram", 1), ("shard_tokens", 1)):
            if getattr(self, name) < least:
                raise InvalidRequest(name, got=getattr(self, name), expected=f"{least} or more")
        self.columns  # noqa: B018  (raises for a choice that is none)

    @property
    def columns(self) -> Columns:
        return Columns(self.text_column, self.prompt_column, self.completion_column)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far prepare() is."""

    stage: Literal["tokenise", "choose", "write"]
    done: int
    """Of `total`: bytes of the sources as they are on the disk; in "write" tokens."""
    total: int
    tokens: int
    """Tokens so far."""
    note: str | None = None
    """Something to tell once."""


def prepare(
    sources: Paths,
    tokenizer: Tokenizer,
    output: PathLike,
    settings: Preparation | None = None,
    *,
    validation_sources: Paths = (),
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Tokens:
    """Tokenise `sources` (files and folders) into the folder `output`, and open it.

    Args:
        tokenizer: the vocabulary of the model to be trained; it must have the end-of-text token.
        settings: see Preparation; None for its defaults.
        validation_sources: held back as a whole; then none of the other documents is (settings.validation
        does not
            matter), and what is in both is left out of training.
        threads: workers; None for as many as this process has processors. The result does not depend on it.
        progress: is called after every block.

    `output` is new, or empty, or has the unfinished work of an earlier call, which is gone on with, or the
    finished work of the same call, which is returned as it is. Raises InvalidRequest where it is something
    else, DataError for sources that cannot be read and for a disk that is full (what was done is kept).
    """
    settings = settings or Preparation()
    if tokenizer.eos_id is None:
        raise InvalidRequest("the vocabulary has no <|endoftext|>", hint="train one with it, or add it")
    if threads is not None and not 1 <= threads <= 1024:
        raise InvalidRequest("threads", got=threads, expected="1 to 1024")
    job = _Job(sources, tokenizer, Path(output), settings, validation_sources)
    if (job.folder / INDEX).exists():
        return job.already_there()
    with _disk_faults(job.folder), job.lock():
        if (job.folder / INDEX).exists():  # another process has just ended
            return job.already_there()
        tell = progress or (lambda _: None)
        job.begin(tell)
        job.run(threads or len(os.sched_getaffinity(0)), tell)
        shutil.rmtree(job.folder / WORK)
    return Tokens(job.folder)


class _Job:
    """One call of prepare(): its sources, and its folder."""

    def __init__(
        self, sources: Paths, tokenizer: Tokenizer, folder: Path, settings: Preparation, validation: Paths
    ) -> None:
        held, left_held = self._found(validation, settings, folder) if _paths(validation) else ([], [])
        found, left = self._found(sources, settings, folder)
        self.sources: list[Source] = held + found
        self.held = len(held)
        """The first so many sources are for validation."""
        self.left = left_held + left
        self.tokenizer, self.folder, self.settings = tokenizer, folder, settings
        self.evaluation_sources = find_sources(settings.decontaminate)[0] if settings.decontaminate else []
        self.total = sum(source.size for source in self.sources)

    @staticmethod
    def _found(paths: Paths, settings: Preparation, folder: Path) -> tuple[list[Source], list[str]]:
        """The sources; what this job itself has written into a folder of them is none."""
        found, left = find_sources(_paths(paths), include=settings.include, kind=settings.kind)
        own = folder.resolve()
        return [source for source in found if own not in source.path.resolve().parents], left

    def already_there(self) -> Tokens:
        """The finished folder, if this very job has made it."""
        tokens = Tokens(self.folder)
        index = tokens.index
        ours = self._made_from()
        if not {"settings", "sources"} <= set(index):
            raise InvalidRequest("the output has tokens that another program made", where=str(self.folder))
        theirs = {"settings": index["settings"], "sources": [], "evaluation": None}
        theirs["sources"] = [
            {k: source[k] for k in ("name", "bytes", "validation")} for source in index["sources"]
        ]
        if "evaluation" in index:
            theirs["evaluation"] = {"files": index["evaluation"]["files"]}
        other = [name for name, value in theirs.items() if ours.get(name) != value]
        other += [] if tokens.tokenizer_hash == self.tokenizer.hash else ["tokenizer"]
        if not other and [source["sha256"] for source in index["sources"]] != self._hashes():
            other = ["content of the sources"]
        if other:
            raise InvalidRequest(
                "the output is there already, made in another way",
                where=str(self.folder),
                got=f"other {', '.join(other)}",
                hint="another --output, or remove the old one",
            )
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        return tokens

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The folder is ours alone until the block ends, or the process does."""
        work = self.folder / WORK
        if self.folder.exists() and not work.exists() and any(self.folder.iterdir()):
            raise InvalidRequest(
                "the output is there already, and is something else",
                where=str(self.folder),
                expected="a new folder, or an empty one",
                hint="another --output",
            )
        work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(lock(work / "lock"))
            except Held as error:
                raise InvalidRequest(
                    "another process is preparing into this folder",
                    where=str(self.folder),
                    got=f"process {error.owner}",
                ) from None
            yield

    def begin(self, tell: Callable[[Progress], None]) -> None:
        """Make sure that the parts that are there are ours."""
        request = self._made_from() | {
            "tokenizer": self.tokenizer.hash,
            "files": [
                [str(source.path), source.size, source.path.stat().st_mtime_ns] for source in self.sources
            ],
        }
        path = self.folder / WORK / "request.json"
        text = json.dumps(request)
        if path.exists() and path.read_text("utf-8", errors="replace") == text:
            return
        again = any((self.folder / WORK).glob("*.npz"))
        for old in (self.folder / WORK).iterdir():
            if old.name != "lock":
                old.unlink()
        path.write_text(text, "utf-8")
        if again:
            note = "the sources or the settings have changed since it was interrupted: begun anew"
            tell(Progress("tokenise", 0, self.total, 0, note))

    def run(self, threads: int, tell: Callable[[Progress], None]) -> None:
        """The three stages."""
        with ThreadPoolExecutor(1, thread_name_prefix="gpt2-hash") as pool:
            hashes = pool.submit(self._hashes)
            evaluation = self._evaluation()
            spool = self._tokenise(threads, evaluation, tell)
            tell(Progress("choose", self.total, self.total, 0))
            facts = self._made_from()
            for source, sha256 in zip(facts["sources"], hashes.result(), strict=True):
                source["sha256"] = sha256
        if evaluation is not None:
            facts["evaluation"]["texts"] = evaluation.texts
            facts["evaluation"]["too_short"] = evaluation.too_short
        facts["left_out_files"] = sorted(self.left)
        finish(
            spool,
            self.folder,
            self.tokenizer,
            self.sources,
            facts,
            held=self.held,
            progress=lambda done, total: tell(Progress("write", done, total, total)),
        )

    def _tokenise(
        self, threads: int, evaluation: Evaluation | None, tell: Callable[[Progress], None]
    ) -> Spool:
        near = self.settings.near_duplicates is not None
        spool = Spool(self.folder / WORK, token_type(self.tokenizer.vocab_size), with_signatures=near)
        eos_id = self.tokenizer.eos_id
        if eos_id is None:
            raise InvalidRequest("the vocabulary has no <|endoftext|>")
        work = Work(self.tokenizer, eos_id, near, evaluation)
        part: list[Done] = []
        size = tokens = 0
        for done in in_order(work, blocks(self._pieces(skip=spool.pieces)), threads):
            part.append(done)
            size += int(done.records.size.sum())
            tokens += len(done.tokens)
            if size >= PART:
                spool.append([d.tokens for d in part], [d.records for d in part])
                part, size = [], 0
            tell(Progress("tokenise", done.read, self.total, tokens))
        if part:
            spool.append([d.tokens for d in part], [d.records for d in part])
        return spool

    def _pieces(self, skip: int) -> Iterator[tuple[int, Piece, int]]:
        """(number of the source, piece, bytes read in all) of every piece but the first `skip`."""
        before = at = 0

        def note(read: int) -> None:
            nonlocal at
            at = read

        for number, source in enumerate(self.sources):
            for piece in pieces(source, self.settings.columns, self.settings.separator, note):
                if skip:
                    skip -= 1
                    continue
                yield number, piece, before + at
            before, at = before + source.size, 0

    def _evaluation(self) -> Evaluation | None:
        if not self.evaluation_sources:
            return None
        every = Columns(every=True)
        texts = [document.text for source in self.evaluation_sources for document in read(source, every)]
        return Evaluation([text.encode("utf-8") for text in texts], self.settings.ngram)

    def _hashes(self) -> list[str]:
        return [file_hash(source.path) for source in self.sources]

    def _made_from(self) -> dict[str, Any]:
        """What the index says of the origin, as JSON has it: the same job has the same."""
        facts: dict[str, Any] = {
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "sources": [
                {"name": source.name, "bytes": source.size, "validation": number < self.held}
                for number, source in enumerate(self.sources)
            ],
        }
        if self.evaluation_sources:
            files = [{"name": s.name, "sha256": file_hash(s.path)} for s in self.evaluation_sources]
            facts["evaluation"] = {"files": files}
        return facts


def _paths(paths: Paths) -> list[PathLike]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    """What the disk refuses, as an error of ours."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            "cannot be written",
            where=str(folder),
            got=error.strerror,
            hint="make room and call it again: it goes on where it stopped" if full else None,
        ) from None
