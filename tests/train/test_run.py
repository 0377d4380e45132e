"""Whole runs, from a text file to a model directory: what is written, what is refused, what survives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2.errors import DataError, InvalidRequest, SettingsChanged, TrainingError

torch = pytest.importorskip("torch", reason="torch is not installed")

from gpt2.train import plan as plan_module  # noqa: E402
from gpt2.train import run as run_module  # noqa: E402
from gpt2.train.report import read_log  # noqa: E402
from gpt2.train.run import Result, run  # noqa: E402
from gpt2.train.settings import Settings, read_toml  # noqa: E402
from gpt2.train.start import zero_residual  # noqa: E402
from gpt2.weights import open_weights  # noqa: E402
from train import runs  # noqa: E402


def text(lines: int = 150) -> str:
    """Sentences with a pattern, in paragraphs, so that a part can be held out."""
    rng = np.random.default_rng(0)
    who, does = ["the cat", "the dog", "a man", "she"], ["sat on", "saw", "took", "left"]
    made = []
    for i in range(lines):
        made.append(f"{rng.choice(who)} {rng.choice(does)} {rng.choice(who)}." + ("\n" if i % 3 == 2 else ""))
    return "\n".join(made)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("notes") / "notes.txt"
    path.write_text(text(), encoding="utf-8")
    return path


def settings(notes: Path, output: Path, model: Path, **given: Any) -> Settings:
    defaults = {
        "data": (str(notes),), "output": str(output), "model": str(model), "lr": 3e-3, "max_steps": 40,
        "batch": 8, "evaluate_every": 10, "threads": 1, "window": 32, "validation": 0.2, "log_every": 1,
        "checkpoint_every": 20,
    }  # fmt: skip
    return Settings.of("finetune", **{**defaults, **given})


@pytest.fixture(scope="module")
def tuned(
    notes: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result, list[str]]:
    output = tmp_path_factory.mktemp("tuned") / "out"
    said: list[str] = []
    result = run(settings(notes, output, tiny_checkpoint, prompts=("the cat", "")), say=said.append)
    return output, result, said


def test_it_learns_and_says_what_it_did(tuned: tuple[Path, Result, list[str]]) -> None:
    output, result, said = tuned
    card = result.card
    assert card is not None
    p = card["quality"]["held_out"]["perplexity"]
    assert p["model"] < 0.3 * p["source"]
    assert card == json.loads((output / "card.json").read_text(encoding="utf-8"))
    assert card["made_by"]["command"] == "finetune"
    assert card["training"]["steps"] == 40
    assert len(card["samples"]) == 2
    assert (
        card["quality"]["written_before"]["perplexity"]["model"]
        > card["quality"]["written_before"]["perplexity"]["source"]
    )
    assert {"source", "model"} <= set(card["memorised"])
    assert str(output.parent) not in json.dumps(card), "a card tells no paths of a machine"
    words = "\n".join(said)
    for word in (
        "parameters",
        "steps ",
        "time ",
        "memory ",
        "checkpoints",
        "lr = 0.003",
        "perplexity on held-out",
        "memorised",
    ):
        assert word in words, word
    events = {event["event"] for event in read_log(output / "run" / "log.jsonl")}
    assert {"settings", "step", "evaluation", "saved"} <= events
    assert (output / "run" / "loss.svg").read_text(encoding="utf-8").count("polyline") == 3


def test_what_it_writes_loads_here_and_in_transformers(tuned: tuple[Path, Result, list[str]]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    output, _, _ = tuned
    lm = gpt2.load(output, threads=1)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(output).eval()
    ids = lm.tokenizer.encode("the cat sat on a man.")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(lm.logits(ids), expected, atol=2e-3)
    assert lm.generate("the", max_new_tokens=5, seed=1).text


def test_its_settings_are_a_recipe_and_the_run_is_over(
    tuned: tuple[Path, Result, list[str]], notes: Path, tiny_checkpoint: Path
) -> None:
    output, result, _ = tuned
    before = (output / "model.safetensors").read_bytes()
    again = Settings.of(**read_toml(output / "run" / "settings.toml"))
    with pytest.raises(InvalidRequest, match="--resume"):
        run(again)
    second = run(again, resume=True)
    assert second.card == result.card
    assert (output / "model.safetensors").read_bytes() == before
    with pytest.raises(SettingsChanged, match=r"lr: 0\.003, now 0\.001"):
        run(again.replace(lr=1e-3), resume=True)


def command(notes: Path, output: Path, model: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "gpt2", "finetune", str(notes), "--output", str(output), "-m", str(model),
        "--lr", "3e-3", "--max-steps", "40", "--batch", "8", "--evaluate-every", "10", "--threads", "1",
        "--window", "32", "--validation", "0.2", "--log-every", "1", "--checkpoint-every", "20", "--prompts",
        "the cat", "", *more,
    ]  # fmt: skip


def test_a_command_that_is_ended_saves_and_goes_on_to_the_same_file(
    tuned: tuple[Path, Result, list[str]], notes: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with subprocess.Popen(command(notes, output, tiny_checkpoint), stderr=subprocess.PIPE) as process:
        log = output / "run" / "log.jsonl"
        while process.poll() is None and not (log.is_file() and '"step": 3' in log.read_text()):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, 0), errors.decode()
    if process.returncode:
        assert b"--resume" in errors
        assert not (output / "model.safetensors").exists()
    done = subprocess.run(
        command(notes, output, tiny_checkpoint, "--resume", "--json"), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["training"]["steps"] == 40
    assert (output / "model.safetensors").read_bytes() == (tuned[0] / "model.safetensors").read_bytes()


def test_the_plan_alone_trains_nothing(notes: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run(settings(notes, tmp_path / "out", tiny_checkpoint), only_plan=True)
    assert result.card is None
    assert result.plan.steps == 40
    assert result.plan.trained == result.plan.parameters > 0
    assert result.plan.seconds > 0
    assert not (tmp_path / "out" / "run" / "checkpoints" / "step-00000000").exists()
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_the_plan_counts_the_time_of_muon(
    notes: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks once for each of its matrices: 6 of each block, the parts of c_attn apart."""
    ticks = 0

    def tick(matrix: torch.Tensor) -> torch.Tensor:
        nonlocal ticks
        ticks += 1
        return matrix

    monkeypatch.setattr(plan_module, "orthogonalise", tick)
    monkeypatch.setattr(plan_module, "now", lambda device: float(ticks))
    monkeypatch.setattr(plan_module, "measured", lambda trainer: (0, 1.0))
    layers = json.loads((tiny_checkpoint / "config.json").read_text())["n_layer"]
    adamw, muon = (
        run(settings(notes, tmp_path / name, tiny_checkpoint, optimizer=name), only_plan=True).plan
        for name in ("adamw", "muon")
    )
    assert muon.seconds - adamw.seconds == pytest.approx(6 * layers * muon.steps)


@pytest.mark.parametrize(("precision", "able"), [("float32", True), ("float32", False), ("bfloat16", True)])
def test_the_plan_says_what_would_be_faster(
    precision: str,
    able: bool,
    notes: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "multiplies_bfloat16", lambda device: able)
    said: list[str] = []
    run(
        settings(notes, tmp_path / "out", tiny_checkpoint, precision=precision),
        only_plan=True,
        say=said.append,
    )
    assert any("--precision bfloat16" in line for line in said) == (precision == "float32" and able)


@pytest.mark.parametrize(("what", "word"), [("memory", "memory"), ("disk", "room")])
def test_what_the_machine_cannot_do_is_refused_before_the_start(
    what: str, word: str, notes: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "memory":
        monkeypatch.setattr(plan_module, "memory", lambda device: 1 << 20)
    else:
        monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(TrainingError, match=word) as error:
        run(settings(notes, tmp_path / "out", tiny_checkpoint))
    assert error.value.hint
    assert not list((tmp_path / "out" / "run" / "checkpoints").glob("step-*"))


def test_bad_input_is_an_error_that_helps(notes: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_bytes(b"")
    binary.write_bytes(bytes(range(256)) * 10)
    for path in (empty, binary, tmp_path / "nowhere.txt"):
        with pytest.raises(DataError):
            run(settings(path, tmp_path / path.stem, tiny_checkpoint))
    with pytest.raises(InvalidRequest, match="n_positions"):
        run(settings(notes, tmp_path / "a", tiny_checkpoint, window=65))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(InvalidRequest, match=r"mine\.txt"):
        run(settings(notes, tmp_path / "full", tiny_checkpoint))
    with pytest.raises(InvalidRequest, match="both"):
        run(Settings.of("finetune", data=("x",)))


def test_nothing_held_out_a_prompt_too_long_and_a_text_to_forget(
    notes: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    general = tmp_path / "general.txt"
    general.write_text("Something else altogether. " * 20, encoding="utf-8")
    said: list[str] = []
    odd = settings(
        notes, tmp_path / "out", tiny_checkpoint, validation=0.0, max_steps=2, prompts=("the cat " * 50,),
        general=str(general),
    )  # fmt: skip
    card = run(odd, say=said.append).card
    assert card is not None
    assert "held_out" not in card["quality"]
    assert set(card["quality"]["general"]["perplexity"]) == {"source", "model"}
    assert any("nothing is held out" in line for line in said)
    general.write_text(" ")
    with pytest.raises(InvalidRequest, match="empty"):
        run(odd.replace(output=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_written_beside_the_model_that_has_it(
    dora: bool, notes: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from gpt2.weights.adapters import read_adapter

    lora = settings(notes, tmp_path / "out", tiny_checkpoint, lr=1e-2, lora_rank=4, dora=dora)
    said: list[str] = []
    result = run(lora.replace(recipe="lora"), say=said.append)
    assert result.card is not None
    p = result.card["quality"]["held_out"]["perplexity"]
    assert p["model"] < 0.7 * p["source"]
    assert result.plan.trained < 0.3 * result.plan.parameters
    adapter = read_adapter(tmp_path / "out" / "adapter", gpt2.load(tmp_path / "out").config)
    before, after = gpt2.open_weights(tiny_checkpoint), gpt2.open_weights(tmp_path / "out")
    for name, module in adapter.modules.items():
        old, new = before[f"{name}.weight"].array, after[f"{name}.weight"].array
        expected = old + module.delta()
        if module.magnitude is not None:
            expected *= module.magnitude / np.linalg.norm(expected, axis=0)
        np.testing.assert_allclose(new, expected, atol=1e-5)
    base, merged = gpt2.load(tiny_checkpoint, threads=1), gpt2.load(tmp_path / "out", threads=1)
    base.load_adapter(tmp_path / "out" / "adapter", "tuned")
    ids = base.tokenizer.encode("the cat sat on")
    np.testing.assert_allclose(base.logits(ids, adapter="tuned"), merged.logits(ids), atol=2e-3)
    for name in ("wte.weight", "h.0.ln_1.weight", "h.1.mlp.c_fc.bias"):
        np.testing.assert_array_equal(before[name].array, after[name].array)


def test_pretraining_makes_a_model_from_nothing(notes: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run(
        Settings.of(
            "pretrain", data=(str(notes),), output=str(tmp_path / "out"), model=str(tiny_checkpoint),
            n_layer=1, n_embd=16, n_head=2, n_positions=32, max_steps=30, epochs=1e3, lr=1e-2, batch=8,
            threads=1, validation=0.2, evaluate_every=10, zero_residual=True, save_precision="bfloat16",
        )
    )  # fmt: skip
    card = result.card
    assert card is not None
    assert "source" not in card
    with open_weights(tmp_path / "out") as weights:
        assert {tensor.dtype for tensor in weights.values()} == {"bfloat16"}
    lm = gpt2.load(tmp_path / "out", threads=1)
    assert (lm.config.n_layer, lm.config.n_embd, lm.config.n_positions) == (1, 16, 32)
    assert card["quality"]["held_out"]["perplexity"]["model"] < len(lm.tokenizer) / 2


def test_blocks_may_begin_as_the_identity() -> None:
    model = runs.tiny()
    zero_residual(model)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = model.ln_f(model.wte(ids) + model.wpe(torch.arange(6)))
        torch.testing.assert_close(model.hidden(ids), expected, rtol=0, atol=0)


def test_the_recipe_of_the_bundled_model_is_one() -> None:
    given = read_toml(Path(__file__).parents[2] / "recipes" / "demo" / "recipe.toml")
    settings = Settings.of(given.pop("recipe"), **given)
    assert settings.recipe == "pretrain"
    assert settings.save_precision == "bfloat16"
