"""The C++ parts, tested as C++: under every instruction set of this machine, under ASan+UBSan, as clang sees
them, and the kernels of 64-bit ARM in an emulator.

Each build has a folder under build/native-tests/ and is incremental, so only the first run takes minutes.
Warnings are errors here. What a test program checks is in native/tests/; this file only builds and runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from machine import ROOT, need

BUILDS = ROOT / "build" / "native-tests"
FUZZ_SECONDS = 5  # each; enough to see that a target is alive. A long run: FUZZING in CONTRIBUTING.md
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def tool(name: str) -> str | None:
    """The program, from the environment of this Python first: pip brings cmake and ninja."""
    return shutil.which(name, path=TOOLS)


def run(*command: str | Path, **env: str) -> str:
    """Run a command; its output is the failure's text, the last lines of it, because they name the fault."""
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
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{tail}", pytrace=False)
    return done.stdout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, also where two test runs share the tree."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(name: str, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
    """Configure and build the native tests (not the Python extension) with these options."""
    cmake = tool("cmake")
    need(cmake, "cmake is not installed: pip install cmake")
    need(
        Path("/usr/include/doctest/doctest.h").exists() or "DOCTEST_INCLUDE_DIR" in os.environ,
        "doctest is not installed: apt-get install doctest-dev, or name its folder in DOCTEST_INCLUDE_DIR",
    )
    folder = BUILDS / name
    generator = ["-G", "Ninja"] if tool("ninja") else []
    with locked(folder):
        options = (*options, f"-DDOCTEST_INCLUDE_DIR={doctest_alone(folder)}")
        common = ["-DGPT2_PYTHON=OFF", "-DGPT2_TESTS=ON", "-DGPT2_WERROR=ON"]
        run(str(cmake), "-S", ROOT, "-B", folder, *generator, *common, *options)
        run(str(cmake), "--build", folder, "--parallel", str(os.cpu_count() or 1), "--target", *targets)
    return folder


def doctest_alone(folder: Path) -> Path:
    """A folder with doctest and nothing else: a cross compiler must not see this machine's /usr/include."""
    headers = folder / "doctest"
    headers.mkdir(exist_ok=True)
    link = headers / "doctest"
    if not link.is_symlink():
        link.symlink_to(Path(os.environ.get("DOCTEST_INCLUDE_DIR", "/usr/include")) / "doctest")
    return headers


def run_programs(folder: Path, *arguments: str, **env: str) -> str:
    """Run the test programs of a build through ctest, which prints what failed."""
    ctest = tool("ctest")
    need(ctest, "ctest is not installed: pip install cmake")
    return run(
        str(ctest),
        *("--test-dir", folder, "--output-on-failure", "--no-tests=error", "--timeout", "600"),
        *("--parallel", str(os.cpu_count() or 1), *arguments),
        **env,
    )


@pytest.fixture(scope="module")
def release_build() -> Path:
    return build("release")


@pytest.fixture(scope="module")
def clang_build() -> Path:
    clang = tool("clang++")
    need(clang, "clang++ is not installed: apt-get install clang libclang-rt-14-dev")
    return build(
        "clang", f"-DCMAKE_CXX_COMPILER={clang}", "-DGPT2_FUZZ=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"
    )


def test_programs_pass_under_each_instruction_set(release_build: Path, isa: str) -> None:
    run_programs(release_build, GPT2_ISA=isa)


def test_programs_pass_under_address_and_undefined_sanitizers() -> None:
    folder = build("asan", "-DGPT2_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    run_programs(folder, UBSAN_OPTIONS="print_stacktrace=1")


def test_kernels_of_arm_give_the_bits_of_the_plain_loops() -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64")
    need(compiler, "no compiler for 64-bit ARM: apt-get install g++-aarch64-linux-gnu")
    need(emulator, "no emulator of 64-bit ARM: apt-get install qemu-user")
    folder = build(
        "arm",
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
        f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator};-L;/usr/aarch64-linux-gnu;-cpu;max",
        targets=("base_test", "kernels_test", "quantized_test"),
    )
    run_programs(folder, "-R", "^(base|kernels|quantized)_test$", GPT2_ISA="neon")


def test_no_data_race_between_the_threads_of_an_engine() -> None:
    """R6 in short; GPT2_TEST_SECONDS=3600 makes it an hour."""
    options = ("-DGPT2_SANITIZE=thread", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    programs = ("engine_threads_test", "branches_test")
    folder = build("tsan", *options, targets=programs)
    for program in programs:
        run(folder / "native" / "tests" / program)


def test_clang_compiles_everything_without_a_warning(clang_build: Path) -> None:
    run_programs(clang_build)


def test_fuzz_targets_find_nothing(clang_build: Path) -> None:
    targets = sorted(p for p in (clang_build / "native" / "tests").glob("fuzz_*") if os.access(p, os.X_OK))
    assert targets, "GPT2_FUZZ=ON built no fuzz_* program"
    for target in targets:
        run(
            target,
            f"-artifact_prefix={clang_build}/",
            f"-max_total_time={FUZZ_SECONDS}",
            "-rss_limit_mb=2048",
            "-timeout=10",
            "-verbosity=0",
        )
