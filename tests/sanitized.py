"""Runs Python tests on an extension that is built with AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitized.py                      # the rooms with native code
    python tests/sanitized.py tests/tokenizer -x       # what pytest is given instead

The extension is built in build/sanitized and put, with the package's Python files, into a folder that is
searched before all installed packages, in this process and in those that tests start; the installed package
stays as it is. The sanitizers' libraries are loaded before Python is (LD_PRELOAD), and libstdc++ with them,
so that they see its exceptions. Leaks are not looked for, because Python does not free all at its end;
native/tests and engine_memory_test look for them. Every report ends its process and is a file in
build/sanitized/reports: the command shows them and fails if there is one, whatever the tests say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitized"
REPORTS, SITE = BUILD / "reports", BUILD / "site"
TESTS = [f"tests/{room}" for room in ("engine", "decoding", "tokenizer", "weights", "quant")]

# An editable install finds the package before any folder does. Python runs this module when it starts.
WITHOUT_EDITABLE = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
"""


def build() -> Path:
    """The extension with sanitizers."""
    tools = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ninja = ["-G", "Ninja"] if shutil.which("ninja", path=tools["PATH"]) else []
    options = ["-DGPT2_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1"]
    configure = ["cmake", "-S", ROOT, "-B", BUILD, *ninja, *options, f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(configure, env=tools, check=True, stdout=subprocess.DEVNULL)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", BUILD, "--target", "_native", "-j", jobs], env=tools, check=True)
    return next((BUILD / "native" / "bindings").glob("_native.*.so"))


def arrange(extension: Path) -> None:
    """SITE/gpt2: links to the Python files and to this extension."""
    shutil.rmtree(SITE, ignore_errors=True)
    package = SITE / "gpt2"
    package.mkdir(parents=True)
    for file in (ROOT / "src" / "gpt2").iterdir():
        if file.name != "__pycache__":
            (package / file.name).symlink_to(file)
    (package / extension.name).symlink_to(extension)
    (SITE / "sitecustomize.py").write_text(WITHOUT_EDITABLE, encoding="utf-8")


def library(name: str) -> str:
    """Where the compiler has its runtime library."""
    compiler = os.environ.get("CXX", "c++")
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def environment() -> dict[str, str]:
    shared = f"log_path={REPORTS}/report"
    return os.environ | {
        "LD_PRELOAD": " ".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so.6"))),
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:{shared}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{shared}",
        "PYTHONPATH": str(SITE),
        "PYTHONMALLOC": "malloc",  # so that what lies beyond a bytes object is seen too
    }


def main() -> int:
    arrange(build())
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    which = "import gpt2._native as n; print(n.__file__)"
    checked = subprocess.run(
        [sys.executable, "-c", which], env=environment(), check=True, capture_output=True, text=True
    )
    if SITE.as_posix() not in checked.stdout:
        raise SystemExit(f"not the sanitized extension: {checked.stdout}")
    arguments = sys.argv[1:] or TESTS
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], env=environment(), cwd=ROOT, check=False
    )
    reports = sorted(REPORTS.iterdir())
    for report in reports:
        print(report.read_text(errors="replace")[:4000], file=sys.stderr)
    print(f"{len(reports)} reports", file=sys.stderr)
    return 1 if reports else ended.returncode


if __name__ == "__main__":
    sys.exit(main())
