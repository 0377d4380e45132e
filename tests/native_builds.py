"""The builds of the C++ tests: which there are, with what options, and how one is made.

    python tests/native_builds.py          # all of them, in the order in which the tests want them

Each has a folder under build/native-tests/ and is incremental, so only the first run takes minutes. CI
starts this program beside the Python tests, which leave a processor idle; a test that wants a build waits
until it is whole.

Sanitized code is built with -O1 and with calls for its checks: the kernels are templates that inline into
functions of thousands of loads and stores, and GCC takes 6 s for one of them so, where checks in line take
more than a minute.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from machine import ROOT, need

FOLDER = ROOT / "build" / "native-tests"
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

_LIGHT = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1")
_ARM = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")


@dataclass(frozen=True)
class Build:
    options: tuple[str, ...] = ()
    compiler: str | None = None
    emulator: str | None = None
    targets: tuple[str, ...] = ("all",)
    debian: str = ""
    """Packages that bring compiler and emulator."""


BUILDS: Mapping[str, Build] = MappingProxyType(
    {
        "release": Build(),
        "asan": Build(("-DGPT2_SANITIZE=address,undefined", *_LIGHT)),
        "arm": Build(
            _ARM,
            "aarch64-linux-gnu-g++",
            "qemu-aarch64",
            ("base_test", "kernels_test", "quantized_test"),
            "g++-aarch64-linux-gnu qemu-user",
        ),
        "tsan": Build(("-DGPT2_SANITIZE=thread", *_LIGHT), targets=("engine_threads_test", "branches_test")),
        "clang": Build(("-DGPT2_FUZZ=ON", *_LIGHT), "clang++", debian="clang libclang-rt-14-dev"),
    }
)


class BuildError(Exception):
    """A command that failed, with the last lines of what it said."""


def tool(name: str) -> str | None:
    """The program, from the environment of this Python first: pip brings cmake and ninja."""
    return shutil.which(name, path=TOOLS)


def run(*command: str | Path, **env: str) -> str:
    """Run a command; its output is the error's text, the last lines of it, because they name the fault."""
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"PATH": TOOLS} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-60:])
        raise BuildError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{tail}")
    return done.stdout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, also where two test runs share the tree."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(name: str) -> Path:
    """Configure and build the native tests (not the Python extension); the folder of the build."""
    how = BUILDS[name]
    cmake = tool("cmake")
    need(cmake, "cmake is not installed: pip install cmake")
    need(
        Path("/usr/include/doctest/doctest.h").exists() or "DOCTEST_INCLUDE_DIR" in os.environ,
        "doctest is not installed: apt-get install doctest-dev, or name its folder in DOCTEST_INCLUDE_DIR",
    )
    for program in filter(None, (how.compiler, how.emulator)):
        need(tool(program), f"{program} is not installed: apt-get install {how.debian}")
    folder = FOLDER / name
    options = ["-DGPT2_PYTHON=OFF", "-DGPT2_TESTS=ON", "-DGPT2_WERROR=ON", *how.options]
    if how.compiler:
        options.append(f"-DCMAKE_CXX_COMPILER={tool(how.compiler)}")
    if how.emulator:
        emulator = f"{tool(how.emulator)};-L;/usr/aarch64-linux-gnu;-cpu;max"
        options.append(f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator}")
    generator = ["-G", "Ninja"] if tool("ninja") else []
    with locked(folder):
        options.append(f"-DDOCTEST_INCLUDE_DIR={_doctest_alone(folder)}")
        run(str(cmake), "-S", ROOT, "-B", folder, *generator, *options)
        jobs = str(os.cpu_count() or 1)
        run(str(cmake), "--build", folder, "--parallel", jobs, "--target", *how.targets)
    return folder


def _doctest_alone(folder: Path) -> Path:
    """A folder with doctest and nothing else: a cross compiler must not see this machine's /usr/include."""
    headers = folder / "doctest"
    headers.mkdir(exist_ok=True)
    link = headers / "doctest"
    if not link.is_symlink():
        link.symlink_to(Path(os.environ.get("DOCTEST_INCLUDE_DIR", "/usr/include")) / "doctest")
    return headers


if __name__ == "__main__":
    for one in BUILDS:
        build(one)
