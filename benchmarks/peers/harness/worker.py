"""The process that holds one engine: reads one JSON request per line, answers each with one JSON line.

    python -m harness.worker ADAPTER FOLDER CHECKPOINT THREADS OPTIONS

where OPTIONS is JSON. The first line out is {"first_token": true} after the load and one token of a prompt
of 32, so that the reader can time it from exec. Then, to each {"op": "run", "context", "new", "batch",
"seed"}, the answer is {"tokens_per_second", "chosen", "peak_mb", "cpu_seconds"}; to {"op": "memory"},
{"peak_mb"}; to {"op": "stop"}, the end. A failure is {"error": ...}, and the worker lives on. Libraries
that print do so to stderr: stdout belongs to the protocol.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from harness import operations
from harness.operations import Operation, Runs


def claim_stdout() -> TextIO:
    """The protocol's own end of stdout; from now on, whatever writes to descriptor 1 writes to stderr."""
    mine = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return mine


def die_with_the_runner() -> None:
    """A stopped process does not see that its stdin has ended, so the kernel ends it with its parent."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))


def peak_megabytes() -> float:
    """The largest resident size of this process so far (not getrusage's, which remembers the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def answer(engine: Runs, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request; the engine's exceptions become an answer, too."""
    try:
        if request["op"] == "memory":
            return {"peak_mb": peak_megabytes()}
        operation = Operation(request["context"], request["new"], request["batch"])
        busy = time.process_time()
        result = operations.measure(engine, operation, request["seed"])
        busy = time.process_time() - busy
        return {**result, "peak_mb": peak_megabytes(), "cpu_seconds": busy}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    adapter, folder, checkpoint, threads, options = sys.argv[1:]
    die_with_the_runner()
    out = claim_stdout()

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    try:
        module = importlib.import_module(adapter)
        engine = module.Engine(Path(folder), Path(checkpoint), int(threads), json.loads(options))
        engine.run(operations.prompts(Operation(context=32, new=1), seed=0), 1)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error
    say({"first_token": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "stop":
            break
        say(answer(engine, request))
    out.flush()
    os._exit(0)  # engines with threads of their own do not always end by themselves


if __name__ == "__main__":
    main()
