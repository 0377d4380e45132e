"""The C++ parts, tested as C++: under every instruction set of this machine, under ASan+UBSan, as clang sees
them, and the kernels of 64-bit ARM in an emulator.

Warnings are errors here. What a test program checks is in native/tests/, how it is built in native_builds.py;
this file only runs them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import native_builds
from machine import need
from native_builds import BuildError, tool

FUZZ_SECONDS = 5  # each; enough to see that a target is alive. A long run: FUZZING in CONTRIBUTING.md


def run(*command: str | Path, **env: str) -> str:
    try:
        return native_builds.run(*command, **env)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)


def build(name: str) -> Path:
    try:
        return native_builds.build(name)
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)


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
    """clang compiles everything without a warning, or this fails."""
    return build("clang")


def test_programs_pass_under_each_instruction_set(release_build: Path, isa: str) -> None:
    run_programs(release_build, GPT2_ISA=isa)


def test_programs_pass_under_address_and_undefined_sanitizers() -> None:
    run_programs(build("asan"), UBSAN_OPTIONS="print_stacktrace=1")


def test_kernels_of_arm_give_the_bits_of_the_plain_loops() -> None:
    run_programs(build("arm"), "-R", "^(base|kernels|quantized)_test$", GPT2_ISA="neon")


def test_no_data_race_between_the_threads_of_an_engine() -> None:
    """R6 in short; GPT2_TEST_SECONDS=3600 makes it an hour."""
    folder = build("tsan")
    for program in native_builds.BUILDS["tsan"].targets:
        run(folder / "native" / "tests" / program)


@pytest.mark.slow
def test_programs_pass_as_clang_builds_them(clang_build: Path) -> None:
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
