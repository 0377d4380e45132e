"""Prompt templates: what each version writes, for ever; own ones from TOML; wrong ones with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2 import errors
from gpt2.decoding import TEMPLATES, Template, as_template

TALK = [("system", "Be kind."), ("user", "Hello {text} %s"), ("assistant", "Hi."), ("user", "Bye")]

WRITTEN = {
    "plain@1": "Be kind.Hello {text} %sHi.Bye",
    "story@1": "Be kind.\n\nHello {text} %sHi.\n\nBye",
    "dialogue@1": "Be kind.\n\nUser: Hello {text} %s\nAssistant: Hi.\nUser: Bye\nAssistant:",
    "chatml@1": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello {text} %s<|im_end|>\n"
    "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "alpaca@1": "Be kind.\n\n### Instruction:\nHello {text} %s\n\n### Response:\nHi.\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
}
"""A released version is never changed: a correction is a new version, with a line of its own here."""

STOPS = {
    "plain@1": (),
    "story@1": (),
    "dialogue@1": ("\nUser:", "\nAssistant:"),
    "chatml@1": ("<|im_end|>", "<|im_start|>"),
    "alpaca@1": ("\n### ",),
}


def test_every_version_writes_what_it_always_wrote() -> None:
    assert {t.id: t.render(TALK) for t in TEMPLATES} == WRITTEN
    assert {t.id: t.stop for t in TEMPLATES} == STOPS


def test_alpaca_says_its_preamble_unless_a_system_message_replaces_it() -> None:
    alpaca = Template.named("alpaca")
    assert alpaca.render([("user", "x")]).startswith("Below is an instruction that describes a task. Write a")
    assert alpaca.render([("system", "S"), ("user", "x")]).startswith("S\n\n### Instruction:\nx")


messages = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)))


@given(messages, st.sampled_from(TEMPLATES))
def test_a_text_stands_in_it_once_and_as_it_is(said: list[tuple[str, str]], template: Template) -> None:
    """Rendering is the start and the pieces joined, so that a dialogue can be written turn by turn."""
    text = template.render(said, open_reply=False)
    pieces = [template.message(role, words) for role, words in said]
    assert text == template.start(said[0][0] if said else None) + "".join(pieces)
    assert template.render(said) == text + template.opening
    assert all(words in piece for (_, words), piece in zip(said, pieces, strict=True))


@given(st.sampled_from(TEMPLATES))
def test_a_template_survives_its_plain_values(template: Template) -> None:
    assert Template.from_dict(template.as_dict()) == template


OWN = """
name = "tavern"
version = 3
reply = "innkeeper"
stop = ["\\nPlayer:"]

[roles]
scene = "[{text}]\\n"
player = "Player: {text}\\n"
innkeeper = "Innkeeper: {text}\\n"

[defaults]
scene = "A tavern by the sea."
"""


def test_ones_own_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "tavern.toml"
    path.write_text(OWN)
    tavern = as_template(path)
    assert tavern.id == "tavern@3"
    assert tavern.render([("player", "A beer!")]) == ("[A tavern by the sea.]\nPlayer: A beer!\nInnkeeper:")
    assert tavern.render([("scene", "Night."), ("player", "x")]).startswith("[Night.]\nPlayer")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('name = "tavern"', ""), "name"),
        (("version = 3", "version = 0"), "version"),
        (("version = 3", "version = true"), "version"),
        (("version = 3", 'version = "3"'), "version"),
        (("[{text}]", "[text]"), "roles.scene.*exactly once"),
        (("[{text}]", "{text}{text}"), "roles.scene.*exactly once"),
        (('reply = "innkeeper"', 'reply = "host"'), "reply.*innkeeper"),
        (('stop = ["\\nPlayer:"]', 'stop = [""]'), "stop"),
        (('stop = ["\\nPlayer:"]', 'stop = "x"'), "stop"),
        (('stop = ["\\nPlayer:"]', "stop = 3"), "stop"),
        (('stop = ["\\nPlayer:"]', 'stops = ["x"]'), "unknown option 'stops'(.|\n)*did you mean 'stop'"),
        (("[defaults]\nscene", "[defaults]\nnight"), "defaults"),
        (("[roles]", "[role]"), "unknown option 'role'"),
        (('name = "tavern"', 'name = "a@1"'), "name"),
        (("[roles]", "roles = 3\n[x]"), "x"),
        (('name = "tavern"', "name = "), "not TOML"),
    ],
)
def test_what_is_wrong_in_ones_own(change: tuple[str, str], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    assert change[0] in OWN
    path.write_text(OWN.replace(*change))
    with pytest.raises(errors.InvalidRequest, match=expected) as caught:
        Template.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_templates(tmp_path: Path) -> None:
    for name, data in [("latin.toml", b"name = '\xe9'"), ("deep.toml", b"a=" + b"[" * 100_000)]:
        tmp_path.joinpath(name).write_bytes(data)
        with pytest.raises(errors.InvalidRequest, match="not TOML"):
            Template.load(tmp_path / name)
    tmp_path.joinpath("large.toml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(errors.InvalidRequest, match="larger"):
        Template.load(tmp_path / "large.toml")
    with pytest.raises(errors.InvalidRequest, match=r"cannot be read(.|\n)*chatml@1"):
        as_template(tmp_path / "absent.toml")


def test_names_and_versions() -> None:
    assert Template.named("chatml") is Template.named("chatml@1")
    for wrong, hint in [("chatml@2", "chatml@1"), ("chat-ml", "did you mean 'chatml'"), ("", "plain@1")]:
        with pytest.raises(errors.InvalidRequest, match=hint):
            Template.named(wrong)


def test_a_role_that_it_has_not() -> None:
    with pytest.raises(errors.InvalidRequest, match=r"got 'usr'(.|\n)*did you mean 'user'"):
        Template.named("dialogue").message("usr", "x")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)),
       st.sampled_from(["name", "version", "begin", "reply", "stop", "roles", "defaults"]))  # fmt: skip
def test_values_of_any_kind_are_refused_with_a_reason(value: Any, field: str) -> None:
    values = Template.named("dialogue").as_dict() | {field: value}
    try:
        Template.from_dict(values)
    except errors.InvalidRequest:
        return
    assert isinstance(value, (str, int, list, dict))
