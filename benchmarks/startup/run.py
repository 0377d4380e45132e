"""How fast gpt2 starts, how much memory the first text takes, and how large it is once installed.

    python benchmarks/startup/run.py                 # times and memory, in this environment
    python benchmarks/startup/run.py --sizes         # also builds a wheel and installs it into a fresh
    environment

Each case is a new process, timed from exec; cases are run in turn, so that what the machine does besides
falls on all of them. `python -c "import numpy"` stands beside them: it is the floor for any program of this
kind. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Case:
    """One command, how it is timed, and the limit that the project set itself (milliseconds, None for the
    floor)."""

    name: str
    command: list[str]
    first_byte: bool = False
    """True: time until something is on stdout; False: until the process has ended."""
    limit_ms: float | None = None
    times_ms: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)


def cases() -> list[Case]:
    python = sys.executable
    gpt2 = str(Path(python).with_name("gpt2"))
    return [
        Case('python -c "import numpy"', [python, "-c", "import numpy"]),
        Case('python -c "import gpt2"', [python, "-c", "import gpt2"], limit_ms=150),
        Case("gpt2 --help", [gpt2, "--help"], limit_ms=150),
        Case(
            "gpt2 generate, first token",
            [gpt2, "generate", "--seed", "1", "--max-new-tokens", "8", "Once upon a time"],
            first_byte=True,
            limit_ms=200,
        ),
    ]


def measure(case: Case) -> None:
    """Run once; append the time and the peak resident memory of the process."""
    start = time.perf_counter()
    process = subprocess.Popen(case.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    at = start
    if process.stdout is not None:
        os.read(process.stdout.fileno(), 1)
        at = time.perf_counter()
        while os.read(process.stdout.fileno(), 65536):
            pass
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{case.name}: exit code {process.returncode}")
    case.times_ms.append(1000 * ((at if case.first_byte else end) - start))
    case.peak_mib.append(usage.ru_maxrss / 1024)


def table(measured: list[Case]) -> str:
    lines = [f"{'':<30}{'median':>9}{'min':>8}{'max':>8}{'limit':>8}{'peak memory':>13}"]
    for case in measured:
        limit = f"{case.limit_ms:.0f}" if case.limit_ms else "-"
        low, high = min(case.times_ms), max(case.times_ms)
        lines.append(f"{case.name:<30}{statistics.median(case.times_ms):>9.1f}{low:>8.1f}{high:>8.1f}{limit:>8}"
                     f"{statistics.median(case.peak_mib):>9.1f} MiB")  # fmt: skip
    return "\n".join(
        [*lines, "times in milliseconds from exec; first token: until the first byte is on stdout"]
    )


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sizes() -> dict[str, float]:
    """Megabytes (10^6) of the wheel, and of all that `pip install` brings into an empty environment."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pip = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
        (wheel,) = folder.glob("gpt2-*.whl")
        found = {"wheel": wheel.stat().st_size / 1e6}
        venv.create(folder / "env", with_pip=True)
        (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
        before = {path.name for path in packages.iterdir()}
        pip[0] = str(folder / "env" / "bin" / "python")
        subprocess.run([*pip, "install", "-q", "--no-compile", str(wheel)], check=True)
        for path in sorted(packages.iterdir()):
            if path.name not in before and not path.name.endswith(".dist-info"):
                size = folder_bytes(path) if path.is_dir() else path.stat().st_size
                found[path.name] = size / 1e6
        return found


def size_table(found: dict[str, float]) -> str:
    installed = {name: size for name, size in found.items() if name != "wheel"}
    rest = sum(size for name, size in installed.items() if not name.startswith("numpy"))
    lines = [
        f"{name:<30}{size:>9.2f} MB" for name, size in sorted(installed.items(), key=lambda item: -item[1])
    ]
    return "\n".join([f"{'wheel (limit 20)':<30}{found['wheel']:>9.2f} MB", *lines,
                      f"{'all but numpy (limit 60)':<30}{rest:>9.2f} MB"])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=21, help="processes per case (default: 21)")
    parser.add_argument("--sizes", action="store_true", help="also measure the wheel and what it installs")
    args = parser.parse_args()
    measured = cases()
    for case in measured:
        measure(case)  # once for the file cache, not counted
        case.times_ms.clear()
        case.peak_mib.clear()
    for _ in range(args.runs):
        for case in measured:
            measure(case)
    print(table(measured))
    record: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "cases": [asdict(case) for case in measured],
    }
    if args.sizes:
        record["sizes_mb"] = found = sizes()
        print(size_table(found))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
