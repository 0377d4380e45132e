"""Every exception that gpt2 raises on purpose, in one tree.

    Error
    ├── InvalidRequest        an argument of a call is wrong               (also a ValueError)
    │   ├── UnknownOption     no option has this name; "did you mean"
    │   └── PromptTooLong     the prompt does not fit the context window
    ├── ConfigError           config.json says something impossible, or something that we cannot honour
    ├── WeightsError          the file's tensors do not make the model that the config describes
    │   ├── CorruptFile       truncated, malformed or lying about its lengths
    │   └── UnsafeFile        a pickle that asks for more than tensors
    ├── TokenizerError        vocabulary or merges that cannot be used
    ├── DataError             a text to train on, or prepared tokens, that cannot be used
    ├── ModelNotFound         neither a directory nor a model that the hub (or its cache) has
    ├── HubError              the hub could not be reached, or the download could not be stored
    ├── EngineError           the machine or the build lacks what was asked for
    │   ├── Overloaded        the queue is full; try again later
    │   └── DeadlineExpired   the request waited in the queue longer than its deadline
    ├── SessionError          a session's file that cannot be read or written
    │   └── SessionMismatch   it was saved with another model, or by a build that computes other bits
    ├── TrainingError         a training run cannot start, or cannot go on
    │   ├── LossDiverged      the loss or its gradient is no number; the last good state was saved
    │   ├── SettingsChanged   a run is to be resumed with other settings, data or weights
    │   └── CheckpointError   a checkpoint cannot be written, or none can be read
    │       └── FolderInUse   another process trains in this folder
    └── OutOfMemory           an allocation failed; nothing was changed      (also a MemoryError)

    ApproximateResult         a warning (a UserWarning): the answer was made, but not from all that was given

An error carries its facts as attributes and its text says, in this order: where, what, got, expected, where
the expectation comes from, the likely reason, and what to try. It never contains secrets or whole prompts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Error(Exception):
    """Base of the tree. `code` is stable and for programs; the text is for people."""

    code = "error"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: object = None,
        source: str | None = None,
        likely: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = got
        self.expected = expected
        self.source = source
        self.likely = likely
        self.hint = hint
        super().__init__(self._text())

    def _text(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        facts = []
        if self.got is not None:
            facts.append(f"got {self.got}")
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        lines = [f"{head}: {', '.join(facts)}" if facts else head]
        if self.source:
            lines.append(f"  expected comes from {self.source}")
        if self.likely:
            lines.append(f"  {self.likely}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class InvalidRequest(Error, ValueError):
    code = "invalid_request"


class UnknownOption(InvalidRequest):
    code = "unknown_option"

    @classmethod
    def named(cls, name: str, known: Iterable[str], *, where: str | None = None) -> UnknownOption:
        """The error for an unknown `name`, with the nearest of the `known` names as advice."""
        near = difflib.get_close_matches(name, list(known), n=1)
        return cls(
            f"unknown option {name!r}", where=where, hint=f"did you mean {near[0]!r}?" if near else None
        )


class PromptTooLong(InvalidRequest):
    code = "prompt_too_long"


class ConfigError(Error):
    code = "config"


class WeightsError(Error):
    code = "weights"


class CorruptFile(WeightsError):
    code = "corrupt_file"


class UnsafeFile(WeightsError):
    code = "unsafe_file"


class TokenizerError(Error):
    code = "tokenizer"


class DataError(Error):
    code = "data"


class ModelNotFound(Error):
    code = "model_not_found"


class HubError(Error):
    code = "hub"


class EngineError(Error):
    code = "engine"


class Overloaded(EngineError):
    code = "overloaded"


class DeadlineExpired(EngineError, TimeoutError):
    code = "deadline_expired"


class SessionError(Error):
    code = "session"


class SessionMismatch(SessionError):
    code = "session_mismatch"


class TrainingError(Error):
    code = "training"


class LossDiverged(TrainingError):
    code = "loss_diverged"


class SettingsChanged(TrainingError):
    code = "settings_changed"


class CheckpointError(TrainingError):
    code = "checkpoint"


class FolderInUse(CheckpointError):
    code = "folder_in_use"


class OutOfMemory(Error, MemoryError):
    code = "out_of_memory"


class ApproximateResult(UserWarning):
    """The answer was made, but not from all that was given; `simplefilter("error")` makes it fatal."""
