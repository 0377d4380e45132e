"""Settings: checked values, recipes, TOML there and back, and what may change when a run is resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.errors import InvalidRequest, UnknownOption
from gpt2.train.settings import RECIPES, Settings, differences, read_toml, setting_facts


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_possible_and_survives_its_own_toml(recipe: str, tmp_path: Path) -> None:
    settings = Settings.of(recipe, data=('a "b".txt', "ü"), lr=1e-5, max_steps=7)
    path = tmp_path / "recipe.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    assert Settings.of(**read_toml(path)) == settings
    assert Settings.of(**settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("batch", 2.5),
        ("batch", True),
        ("lr", -1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("beta1", 1.0),
        ("schedule", "cosin"),
        ("precision", "int8"),
        ("epochs", 0),
        ("keep", 1),
        ("compile", 1),
        ("window", 1),
        ("lora_targets", ("attn",)),
        ("lora_targets", "attn.c_attn"),
        ("data", [1]),
        ("seed", -1),
        ("model", "a\0b"),
        ("recipe", "other"),
        ("seed", None),
    ],
)
def test_an_impossible_value_names_its_setting(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Settings(**{"data": ("x",), name: value})


def test_passes_must_make_the_batch() -> None:
    assert Settings(batch=8, micro_batch=2).micro_batch == 2
    with pytest.raises(InvalidRequest, match="a divisor of batch=8"):
        Settings(batch=8, micro_batch=3)


def test_unknown_names_get_advice_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownOption, match="weight_decay"):
        Settings.of("finetune", weight_decy=0.1)
    path = tmp_path / "r.toml"
    path.write_text("[how]\nlearning = 1\nbatch = 2\n", encoding="utf-8")
    with pytest.raises(UnknownOption, match=r"r\.toml"):
        read_toml(path)
    path.write_text("batch = \n", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="no TOML"):
        read_toml(path)
    path.write_text("batch = 1\n[a]\nbatch = 2\n", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="twice"):
        read_toml(path)


def test_only_what_changes_the_result_may_not_change() -> None:
    one = Settings(data=("a",))
    other = one.replace(data=("b",), keep=5, checkpoint_every=9, threads=3, output="elsewhere")
    assert differences(one.to_dict(), other.to_dict()) == []
    changed = differences(one.to_dict(), one.replace(lr=1e-3, batch=3).to_dict())
    assert changed == ["batch: None, now 3", "lr: None, now 0.001"]
    assert differences({}, Settings().to_dict()) == []


def test_every_setting_says_what_it_is() -> None:
    for name, facts in setting_facts().items():
        assert facts.help, name
        assert facts.range, name


def test_settings_need_no_torch() -> None:
    code = "import sys, gpt2.train.settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
