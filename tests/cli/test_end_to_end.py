"""The whole way, as a user goes it: a new process, the bundled model or a checkpoint on disk, no network."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_bundled_model_writes_and_the_seed_decides(process: Run) -> None:
    first, again, other = (
        process("generate", "--max-new-tokens", "20", "--seed", seed, "Once upon a time", **OFFLINE)
        for seed in ("1", "1", "2")
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout) > 20
    assert first.stdout == again.stdout != other.stdout


def test_streamed_and_whole_are_the_same_text(process: Run) -> None:
    import gpt2

    done = process("generate", "--seed", "3", "--max-new-tokens", "30", "--num", "2", "--json", "The sea")
    whole = [json.loads(line) for line in done.stdout.splitlines()]
    texts = [record["text"] for record in whole if record["type"] == "completion"]
    # Without a sampling flag the command takes the preset "story".
    expected = gpt2.load().generate("The sea", preset="story", seed=3, max_new_tokens=30, n=2)
    assert texts == [completion.text for completion in expected]


def test_no_prompt_starts_from_nothing(process: Run) -> None:
    done = process("generate", "--seed", "1", "--max-new-tokens", "10", stdin=b"")
    assert done.returncode == 0
    assert done.stdout.strip()


def test_next_is_the_softmax_of_the_logits(process: Run) -> None:
    import numpy as np

    import gpt2

    lm = gpt2.load()
    logits = lm.logits(lm.tokenizer.encode("Once upon a"))[-1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    shown = [
        json.loads(line) for line in process("next", "--json", "-n", "3", "Once upon a").stdout.splitlines()
    ]
    assert [token["id"] for token in shown] == list(np.argsort(-logits, kind="stable")[:3])
    assert [token["logprob"] for token in shown] == pytest.approx(sorted(logprobs)[:-4:-1], abs=1e-5)


def test_score_adds_up(process: Run) -> None:
    scored = json.loads(process("score", "--json", "Once upon a time").stdout)
    assert sum(token["logprob"] for token in scored["tokens"]) == pytest.approx(scored["total_logprob"])
    assert sum(t["bits"] for t in scored["tokens"]) / 16 == pytest.approx(scored["bits_per_byte"])


def test_a_text_longer_than_the_window_is_scored_in_strides(process: Run) -> None:
    text = "The sea was calm. " * 200
    refused = process("score", stdin=text.encode())
    assert refused.returncode == 1
    assert refused.stderr.startswith("PromptTooLong: ")
    assert "stride" in refused.stderr
    scored = json.loads(process("score", "--json", "--stride", "256", stdin=text.encode()).stdout)
    assert "".join(token["text"] for token in scored["tokens"]) == text


def test_tokenize_and_back(process: Run) -> None:
    text = "Naïve café — 日本\n"
    ids = process("tokenize", "--ids", stdin=text.encode()).stdout
    assert process("tokenize", "--decode", stdin=ids.encode()).stdout == text


def test_a_checkpoint_of_transformers(process: Run, tiny_checkpoint: Path) -> None:
    done = process(
        "generate", "-m", str(tiny_checkpoint), "--preset", "exact", "--max-new-tokens", "8", "the"
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = process("inspect", str(tiny_checkpoint))
    assert report.returncode == 0
    assert "no problems found" in report.stdout


def on_a_terminal(*argv: str) -> str:
    """What a command writes where stdout and stderr are one terminal."""
    shown, terminal = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "gpt2", *argv],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env=env | {"TERM": "xterm"},
    ) as program:
        os.close(terminal)
        written = b""
        while piece := _read(shown):
            written += piece
        program.wait(20)
    os.close(shown)
    return written.decode()


def _read(shown: int) -> bytes:
    try:
        return os.read(shown, 4096)
    except OSError:  # how Linux says that the last writer of a terminal has gone
        return b""


def test_a_terminal_shows_the_prompt_before_the_text() -> None:
    written = on_a_terminal("generate", "--seed", "1", "--max-new-tokens", "5", "Once upon a time")
    assert written.startswith("\x1b[2mOnce upon a time\x1b[0m")
    assert len(written) > len("\x1b[2mOnce upon a time\x1b[0m\r\n")


def test_a_terminal_shows_scores_as_colours() -> None:
    assert "\x1b[38;5;16;48;5;" in on_a_terminal("score", "Once")


# --- bad input ---


def broken(process: Run, folder: Path, kind: str, *said: str) -> None:
    """Both generate and inspect must refuse the folder with exit code 1 and an error that names what is
    wrong."""
    for argv in (["generate", "-m", str(folder), "x"], ["inspect", str(folder)]):
        done = process(*argv, **OFFLINE)
        assert done.returncode == 1, argv
        text = done.stderr + (done.stdout if argv[0] == "inspect" else "")
        assert "Traceback" not in text
        assert kind in text, text
        assert all(part in text for part in said), text


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_no_such_directory(process: Run, tmp_path: Path) -> None:
    broken(process, tmp_path / "nowhere", "ModelNotFound", "nowhere")


def test_a_directory_that_is_no_model(process: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    broken(process, tmp_path, str(tmp_path))


def test_truncated_weights(process: Run, copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    broken(process, copy, "CorruptFile", "model.safetensors")


def test_config_that_disagrees_with_the_weights(process: Run, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"n_embd": 96}))
    broken(process, copy, "WeightsError", "96")


def test_config_that_cannot_be_honoured(process: Run, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"activation_function": "mish"}))
    broken(process, copy, "ConfigError", "activation_function", "mish")


def test_a_vocabulary_larger_than_the_embedding(process: Run, copy: Path) -> None:
    vocab = json.loads((copy / "vocab.json").read_text(encoding="utf-8"))
    more = {f"word{i}": len(vocab) + i for i in range(5)}
    (copy / "vocab.json").write_text(json.dumps(vocab | more), encoding="utf-8")
    broken(process, copy, "Error")


def test_nan_is_a_problem_when_values_are_read(process: Run, copy: Path) -> None:
    weights = copy / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-4] + b"\x00\x00\xc0\x7f")
    assert process("inspect", str(copy)).returncode == 0
    done = process("inspect", "--values", str(copy))
    assert done.returncode == 1
    assert "WeightsError" in done.stdout
    assert "not finite" in done.stdout


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        (["generate", "--isa", "sse9", "x"], "EngineError"),
        (["generate", "--threads", "0", "x"], "InvalidRequest"),
        (["generate", "-m", "nobody/nothing", "x"], "ModelNotFound"),
        (["generate", "word " * 5000], "PromptTooLong"),
        (["tokenize", "--decode", "999999999"], "InvalidRequest"),
        (["tokenize", "--decode", "99999999999999999999999"], "InvalidRequest"),
    ],
)
def test_bad_arguments(argv: list[str], kind: str, process: Run) -> None:
    done = process(*argv, **OFFLINE)
    assert (done.returncode, done.stdout) == (1, "")
    assert kind in done.stderr.partition(":")[0]
    assert 1 <= done.stderr.count("\n") <= 6


def test_truncate_says_what_was_cut(process: Run) -> None:
    done = process("generate", "--truncate", "left", "--max-new-tokens", "4", "word " * 5000)
    assert done.returncode == 0
    assert "prompt tokens were cut (left)" in done.stderr


# --- time ---


@pytest.fixture
def long_run() -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "gpt2", "generate", "--overflow", "slide", "--max-new-tokens", "1000000"]
    argv += ["--ignore-eos", "--seed", "1", "Once upon a time"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        yield program
        program.kill()


def test_ctrl_c_stops_at_once(long_run: subprocess.Popen[bytes]) -> None:
    assert long_run.stdout
    assert os.read(long_run.stdout.fileno(), 1)
    before = time.monotonic()
    long_run.send_signal(signal.SIGINT)
    _, err = long_run.communicate(timeout=20)
    assert long_run.returncode == 130
    assert err == b""
    assert time.monotonic() - before < 2


def test_head_ends_it_quietly(long_run: subprocess.Popen[bytes]) -> None:
    assert long_run.stdout
    assert long_run.stderr
    assert os.read(long_run.stdout.fileno(), 1)
    long_run.stdout.close()
    assert long_run.wait(20) == 0
    assert long_run.stderr.read() == b""
