"""The runner's end of a worker: start it, ask it, keep it still while others work, end it.

A worker that is not asked anything is stopped by signal, so that no engine's spinning threads cost another
engine time. Knows the protocol (harness/worker.py), nothing of what the numbers mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from harness import environments
from harness.catalogue import Row
from harness.operations import Operation

TIMEOUT = 600.0
"""Seconds for one answer; more than the slowest peer needs for the largest shape."""


class WorkerError(Exception):
    """The engine could not be loaded, failed, ended or did not answer."""


class Worker:
    """One engine in a process of its own."""

    def __init__(self, command: list[str], variables: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.began = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | variables,
                cwd=environments.PEERS,
            )
        self._pending = b""
        try:
            self._answer()
        except WorkerError:
            self.stop()
            raise
        self.cold_seconds = time.perf_counter() - self.began
        """From exec to the first token."""
        self.rest()

    @property
    def pid(self) -> int:
        return self._process.pid

    def rest(self) -> None:
        """Stop the process's clock, so to speak: it does nothing until it is woken."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Wake the worker, send one request, wait for its answer, and stop it again."""
        self.wake()
        try:
            self._send(message)
            return self._answer()
        finally:
            self.rest()

    def measure(self, operation: Operation, seed: int) -> dict[str, Any]:
        return self.ask(operation.message(seed))

    def stop(self) -> None:
        """End the process, by force if it does not end itself."""
        if self._process.poll() is None:
            self.wake()
            try:
                self._send({"op": "stop"})
                self._process.wait(timeout=10)
            except (WorkerError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    pipe.close()

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise WorkerError("the worker has no stdin")
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise WorkerError(f"the worker ended ({error})") from error

    def _answer(self) -> dict[str, Any]:
        """The next line; an error in it, the end of the process or silence is a WorkerError."""
        stdout = self._process.stdout
        if stdout is None:
            raise WorkerError("the worker has no stdout")
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise WorkerError(f"no answer within {TIMEOUT:.0f} s")
            part = os.read(stdout.fileno(), 65536)
            if not part:
                raise WorkerError(f"the worker ended with status {self._process.wait()}")
            self._pending += part
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer


def start(row: Row, cache: Path, shape: str, threads: int) -> Worker:
    """The worker of a row, loaded and with its first token made. Raises WorkerError."""
    reason = environments.status(cache, row.environment).get("error")
    if reason:
        raise WorkerError(reason)
    folder = cache / "shapes" / shape
    command = [
        str(environments.python(cache, row.environment)),
        *("-m", "harness.worker", f"harness.adapters.{row.adapter}"),
        *(str(folder / row.folder), str(folder / "checkpoint"), str(threads), json.dumps(row.options)),
    ]
    log = cache / "logs" / f"{row.folder}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Worker(command, {"OMP_NUM_THREADS": str(threads)}, log)
