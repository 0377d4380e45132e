"""The parts of benchmarks/peers that need no peer: statistics, the protocol with a worker, operations.

The worker here is a real process with an engine of a few lines, written into a temporary folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))

from harness import catalogue, checkpoint, company, limits, operations, table
from harness.operations import Operation, plan
from harness.workers import Worker, WorkerError

# --- the statistics ---


def test_spread_is_of_the_rounds_that_worked() -> None:
    assert table.spread([3.0, None, 1.0, 2.0]) == table.Spread(2.0, 1.0, 3.0)
    assert table.spread([None]) is None


def test_the_ratio_is_taken_round_by_round_against_the_best_peer_of_that_round() -> None:
    ours = [20.0, 40.0, 10.0]
    peers = {"a": [10.0, 5.0, 5.0], "b": [5.0, 20.0, None]}
    assert table.ratio_to_best(ours, peers, "A") == table.Spread(2.0, 2.0, 2.0)
    assert table.best(peers, "A") == "b"


def test_of_seconds_and_megabytes_less_is_better() -> None:
    peers = {"a": [1.0], "b": [4.0]}
    assert table.best(peers, "cold") == "a"
    ratio = table.ratio_to_best([0.5], peers, "cold")
    assert ratio is not None
    assert ratio.median == 2.0


def test_a_round_without_us_or_without_peers_has_no_ratio() -> None:
    assert table.ratio_to_best([None, 1.0], {"a": [1.0, None]}, "A") is None


@settings(deadline=None)
@given(
    ours=st.lists(st.floats(0.1, 1e5), min_size=1, max_size=9),
    peers=st.lists(st.lists(st.floats(0.1, 1e5), min_size=9, max_size=9), min_size=1, max_size=4),
    drift=st.floats(0.1, 10),
)
def test_a_drift_that_all_share_changes_no_ratio(
    ours: list[float], peers: list[list[float]], drift: float
) -> None:
    named = {str(i): rounds for i, rounds in enumerate(peers)}
    slowed = {name: [value * drift for value in rounds] for name, rounds in named.items()}
    before = table.ratio_to_best(ours, named, "A")
    after = table.ratio_to_best([value * drift for value in ours], slowed, "A")
    assert before is not None
    assert after is not None
    assert after.median == pytest.approx(before.median)


def test_the_verdict_knows_the_targets() -> None:
    assert table.verdict("int8", "A", table.Spread(1.7, 1.0, 2.0)) == "met"
    assert table.verdict("int8", "A", table.Spread(1.69, 1.0, 2.0)) == "missed: 1.7x"
    assert table.verdict("int8", "cold", table.Spread(9, 9, 9)) == ""


def test_layout_aligns_columns() -> None:
    lines = table.layout([["name", "x"], ["a", "1"], ["longer", "22"]]).splitlines()
    assert lines == ["name     x", "------  --", "a        1", "longer  22"]


# --- the operations ---


def test_prompts_are_the_same_for_all_and_fresh_for_each_round() -> None:
    operation = Operation(context=8, new=2, batch=3)
    first = operations.prompts(operation, seed=0)
    assert first == operations.prompts(operation, seed=0)
    assert first != operations.prompts(operation, seed=1)
    assert [len(prompt) for prompt in first] == [8, 8, 8]
    assert len({tuple(prompt) for prompt in first}) == 3, "equal prompts would share a cache"


class Clock:
    """An engine that takes 2 seconds for the prompts and 4 for the rest."""

    def run(self, prompts: operations.Prompts, new_tokens: int) -> operations.Times:
        return operations.Times(10.0, 12.0, 16.0, [7] * len(prompts))


def test_a_decode_counts_the_tokens_after_the_first_and_a_prefill_those_of_the_prompt() -> None:
    decode = operations.measure(Clock(), Operation(context=4, new=9, batch=2), seed=0)
    assert decode == {"tokens_per_second": 2 * 8 / 4.0, "chosen": [7, 7]}
    assert operations.measure(Clock(), Operation(context=4, new=1), seed=0)["tokens_per_second"] == 2.0


def test_the_operations_fit_the_window() -> None:
    assert all(op.context + op.new <= 1024 for op in plan().values())
    assert all(1 < op.new < plan()[name].new for name, op in plan(0.1).items() if not op.is_prefill)


def test_rows_have_names_of_their_own_and_environments_that_exist() -> None:
    assert len({row.name for row in catalogue.ROWS}) == len(catalogue.ROWS)
    assert {row.environment for row in catalogue.ROWS} <= {"", *catalogue.ENVIRONMENTS}
    assert {row.width for row in catalogue.ROWS} == set(catalogue.WIDTHS)
    adapters = ROOT / "benchmarks" / "peers" / "harness" / "adapters"
    assert all((adapters / f"{row.adapter}.py").is_file() for row in catalogue.ROWS)


def test_rows_that_share_a_model_would_convert_it_alike() -> None:
    """Only what the conversion looks at has to agree; the other options belong to a run."""
    kinds: dict[str, tuple[object, ...]] = {}
    for row in catalogue.ROWS:
        keys = ("dtype", "quantize", "bits", "block", "compute_type", "type", "weights")
        what = (row.adapter, *(row.options.get(key) for key in keys))
        assert kinds.setdefault(row.folder, what) == what, row.name


def test_select_takes_words_and_widths() -> None:
    chosen = catalogue.select(catalogue.ROWS, ["LLAMA", "gpt2"], ["int4"])
    assert {row.name for row in chosen} == {
        "gpt2 int4",
        "llama.cpp Q4_0, flash off",
        "llama.cpp Q4_0, flash on",
    }


# --- the limits ---


def test_the_working_set_is_the_weights_and_the_cache() -> None:
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert limits.weight_bytes("float32", "124M") == 4 * matrices
    assert checkpoint.matrix_weights("124M") == matrices
    cache = limits.working_set("bf16", "124M", 100) - limits.weight_bytes("bf16", "124M")
    assert cache == 2 * 12 * 768 * 100 * 2


def test_a_decode_at_the_bandwidth_has_the_whole_share() -> None:
    operation = Operation(context=32, new=257)
    size = limits.working_set("int8", "124M", operation.mean_context)
    found = {"read_gb_s": {"130": 26.0, "500": 10.0}, "gops": {}}
    share = limits.share_of_reading(26e9 / size, "int8", "124M", operation, found)
    assert share == pytest.approx(1.0)
    assert limits.share_of_reading(1.0, "int8", "124M", Operation(512, 1), found) is None


# --- other work on the machine ---


def test_busy_time_leaves_out_idling_and_waiting() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    line = f"cpu  {3 * ticks} {ticks} {2 * ticks} {900 * ticks} {50 * ticks} 0 0 0 7 7"
    assert company.busy_seconds(f"{line}\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == 6.0


def test_a_watch_sees_our_own_work_and_can_leave_it_out() -> None:
    watch, began = company.Watch(), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    assert watch.others() > 0.0
    assert watch.others(ours=1e6) == 0.0


# --- the checkpoint's tokenizer ---


def test_the_synthetic_tokenizer_has_the_size_of_gpt2_and_loads(tmp_path: Path) -> None:
    from gpt2 import Tokenizer

    checkpoint.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocab_size == 50257
    assert tokenizer.decode(tokenizer.encode("To be, or not")) == "To be, or not"


# --- the protocol ---

ENGINE = '''
"""An engine for the test: prints where it should not, fails where it is told to."""
import time
from harness.operations import Times

class Engine:
    def __init__(self, folder, checkpoint, threads, options):
        print("noise of a library")
        if options.get("broken"):
            raise RuntimeError("no such model")

    def run(self, prompts, new_tokens):
        if new_tokens == 13:
            raise ValueError("thirteen")
        if new_tokens == 14:
            raise SystemExit("gone")
        return Times(0.0, 1.0, 3.0, [len(prompt) for prompt in prompts])
'''


@pytest.fixture(name="command")
def worker_command(tmp_path: Path) -> list[str]:
    (tmp_path / "engine_of_the_test.py").write_text(ENGINE)
    command = [sys.executable, "-m", "harness.worker", "engine_of_the_test"]
    return [*command, str(tmp_path), str(tmp_path), "1"]


@pytest.fixture(name="worker")
def running_worker(command: list[str], tmp_path: Path) -> Iterator[Worker]:
    worker = Worker([*command, "{}"], {"PYTHONPATH": str(tmp_path)}, tmp_path / "log")
    yield worker
    worker.stop()


def test_a_worker_answers_and_its_noise_goes_to_the_log(worker: Worker, tmp_path: Path) -> None:
    assert worker.cold_seconds > 0
    answer = worker.measure(Operation(context=5, new=4, batch=2), seed=0)
    assert answer["tokens_per_second"] == 3.0
    assert answer["chosen"] == [5, 5]
    assert 1 < answer["peak_mb"] < 1000
    assert "noise" in (tmp_path / "log").read_text()


def test_a_failed_operation_is_an_error_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="ValueError: thirteen"):
        worker.measure(Operation(context=1, new=13), seed=0)
    assert worker.measure(Operation(context=1, new=2), seed=0)["chosen"] == [1]


def test_a_worker_that_ends_is_an_error_not_a_wait(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="ended"):
        worker.measure(Operation(context=1, new=14), seed=0)
    with pytest.raises(WorkerError):
        worker.measure(Operation(context=1, new=2), seed=0)


def test_an_engine_that_cannot_load_says_why(command: list[str], tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="RuntimeError: no such model"):
        Worker([*command, '{"broken": true}'], {"PYTHONPATH": str(tmp_path)}, tmp_path / "log")


def test_a_worker_without_a_turn_is_stopped(worker: Worker) -> None:
    def state() -> str:
        return Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    deadline = time.monotonic() + 5
    while state() != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state() == "T"
    worker.measure(Operation(context=1, new=2), seed=0)
    while state() != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state() == "T"


def test_a_stopped_worker_can_be_ended(worker: Worker) -> None:
    worker.stop()
    assert not os.path.exists(f"/proc/{worker.pid}")


def alive(pid: int) -> bool:
    """Whether it runs or could; a dead one may wait for long until its foster parent asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_do_not_outlive_a_runner_that_is_killed(command: list[str], tmp_path: Path) -> None:
    runner = f"""
import time
from pathlib import Path
from harness.workers import Worker
worker = Worker({[*command, "{}"]!r}, {{"PYTHONPATH": {str(tmp_path)!r}}}, Path({str(tmp_path / "log")!r}))
print(worker.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", runner], stdout=subprocess.PIPE, text=True, cwd=ROOT / "benchmarks" / "peers"
    )
    with process:
        pid = int(process.stdout.readline()) if process.stdout else 0
        assert alive(pid)
        process.kill()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)
