"""Two processes are one: DDP and FSDP2 over gloo against the same run alone, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("distributed")
    worker = Path(__file__).with_name("distributed_worker.py")
    done = subprocess.run(
        [*TORCHRUN, str(worker), str(folder)],
        capture_output=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads((folder / "results.json").read_text())


CASES = ("all weights", "lora", "dora", "float16")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(kind: str, case: str, results: Any) -> None:
    alone, together = results[case]["alone"], results[case][kind]
    assert len(together["losses"]) == (50 if case == "all weights" else 20)
    near = 1e-3 if case == "float16" else 1e-5  # 2^-11, a rounding of half precision
    assert together["losses"] == pytest.approx(alone["losses"], abs=near)
    assert together["held_out"] == pytest.approx(alone["held_out"], abs=near)
    assert alone["losses"][-1] < alone["losses"][0]
    assert together["weights"] < 10 * near
    assert together.get("adapter", 0.0) < 10 * near


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_go_on_with_the_same_bits(kind: str, case: str, results: Any) -> None:
    assert results[case][kind]["resumed"]


def workers(parent: int) -> list[int]:
    """The processes that a torchrun has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


@pytest.mark.slow
def test_a_worker_that_dies_is_a_restart_from_the_last_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    notes, output = tmp_path / "notes.txt", tmp_path / "out"
    notes.write_text("\n\n".join(f"the {i} cats sat on {i} mats." for i in range(120)), encoding="utf-8")
    command = [
        *TORCHRUN, "--max-restarts", "3", "--monitor-interval", "0.1", "-m", "gpt2.train", "--data",
        str(notes), "--output", str(output), "-m", str(tiny_checkpoint), "--lr", "3e-3", "--max-steps", "60",
        "--batch", "8", "--threads", "1", "--window", "32", "--validation", "0.2", "--log-every", "1",
        "--checkpoint-every", "5", "--evaluate-every", "20",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        checkpoint = output / "run" / "checkpoints" / "step-00000010"
        while process.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        victims = workers(process.pid)
        if not victims:
            pytest.skip("needs /proc/PID/task/PID/children")
        os.kill(victims[-1], signal.SIGKILL)
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()[-3000:]
    assert "goes on from step" in errors.decode()
    card = json.loads((output / "card.json").read_text())
    assert card["training"]["steps"] == 60
    events = [json.loads(line) for line in (output / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 61))
