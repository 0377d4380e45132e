"""gpt2 generate: what goes to the model, and in which form its text comes out."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

from fakes import FakeModel
from gpt2.cli import generate
from gpt2.decoding import PRESETS, option_specs
from gpt2.protocols import Chunk, Completion, Cut

Gpt2 = Callable[..., Any]


def test_text_goes_to_stdout_and_nothing_else(gpt2: Gpt2, model: FakeModel) -> None:
    done = gpt2("generate", "Once upon a time")
    assert (done.code, done.out, done.err) == (0, model.text + "\n", "")
    assert model.calls[0][0] == "Once upon a time"


@pytest.mark.parametrize(
    ("stdin", "prompt"),
    [
        (b"Once", "Once"),
        (b"Once\n", "Once"),
        (b"Once\n\n", "Once\n"),
        (b"a\r\n", "a"),
        (b"", ""),
        ("é\n".encode(), "é"),
    ],
)
def test_prompt_from_stdin_loses_the_newline_of_echo(
    stdin: bytes, prompt: str, gpt2: Gpt2, model: FakeModel
) -> None:
    assert gpt2("generate", stdin=stdin).code == 0
    assert model.calls[0][0] == prompt


def test_stdin_that_is_not_utf8_names_the_offset(gpt2: Gpt2) -> None:
    done = gpt2("generate", stdin=b"caf\xe9 au lait")
    assert (done.code, done.out) == (1, "")
    assert "InvalidRequest: stdin: the text is not UTF-8: got byte 0xe9 at offset 3" in done.err


def test_argument_that_is_not_utf8_names_the_offset(gpt2: Gpt2) -> None:
    done = gpt2("generate", "caf\udce9")  # how Python hands over the byte 0xe9 of a command line
    assert done.code == 1
    assert "byte 0xe9 at offset 3" in done.err


GIVEN: list[dict[str, Any]] = [
    {
        "max_new_tokens": 7, "min_new_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 4, "stop": ("a", "b"), "stop_token_ids": (1, 2),
        "seed": 9, "logprobs": 2, "truncate": "left", "overflow": "slide",
        "ignore_eos": True, "allow_special": True, "do_sample": True, "best_of": 5,
    },
    {
        "max_length": 90, "min_length": 3, "max_time": 9.5, "dynatemp_range": 0.3, "dynatemp_exponent": 1.5,
        "top_n_sigma": 1.5, "top_h": 0.4, "typical_p": 0.9, "epsilon_cutoff": 0.001, "eta_cutoff": 0.002,
        "xtc_probability": 0.5, "xtc_threshold": 0.2, "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2,
        "min_tokens_to_keep": 2, "frequency_penalty": 0.2, "presence_penalty": 0.1, "repeat_last_n": 64,
        "dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 99,
        "dry_sequence_breakers": (".",), "logit_bias": '{"5": 1.5, "6": -100}', "bad_words": ("dog", "cat"),
        "sequence_bias": "[[[1, 2], 0.5]]", "bad_words_ids": "[[1], [2, 3]]", "suppress_tokens": (1, 2),
        "begin_suppress_tokens": (3,), "forced_bos_token_id": 4, "forced_eos_token_id": (0,),
        "forced_decoder_ids": "[[3, 4]]", "exponential_decay_length_penalty": "[9, 1.1]",
        "renormalize_logits": True,
    },
    {"sampler_order": ("top_k", "temperature"), "top_k": 3, "temperature": 0.5},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "length_penalty": 2.0},
    {"num_beams": 4, "early_stopping": "never", "force_words_ids": ("[5, 6]", "[[7], [8, 9]]")},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "2,4"},
    {"guidance_scale": 1.5, "negative_prompt": "No"},
    {"guidance_scale": 1.5, "negative_prompt_ids": "3,4,3"},
    {"num_beams": 3, "num_return_sequences": 3, "constraints": ("[5, 6]",)},
    {"json_schema": '{"type": "null"}'},
    {"regex": "a"},
    {"choice": ("a", "b")},
    {"grammar": "start: /a/"},
    {"token_healing": True},
    {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 3},
]  # fmt: skip

ARRIVES = {
    "dola_layers": (2, 4),
    "negative_prompt_ids": (3, 4, 3),
    "num_return_sequences": None,  # it is n from here on, as constraints are force_words_ids
    "constraints": (),
    "logit_bias": ((5, 1.5), (6, -100.0)),
    "sequence_bias": (((1, 2), 0.5),),
    "bad_words_ids": ((1,), (2, 3)),
    "forced_decoder_ids": ((3, 4),),
    "exponential_decay_length_penalty": (9, 1.1),
}


def test_a_flag_that_is_not_json_is_wrong_usage(gpt2: Gpt2) -> None:
    done = gpt2("generate", "x", "--logit-bias", "{5: 1}")
    assert done.code == 2
    assert "--logit-bias" in done.err
    assert "not JSON" in done.err


def test_every_sampling_option_is_a_flag() -> None:
    assert {name for given in GIVEN for name in given} | {"n"} == {spec.name for spec in option_specs()}


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: next(iter(given)))
def test_a_flag_arrives(given: dict[str, Any], gpt2: Gpt2, model: FakeModel) -> None:
    num = [] if "penalty_alpha" in given else ["--num", "3"]
    argv = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        argv += [flag] if value is True else [part for one in values for part in (flag, str(one))]
    assert gpt2("generate", "x", *num, *argv).code == 0
    params = model.calls[0][1]
    for name, value in given.items():
        if name not in ("force_words_ids", "constraints"):
            assert getattr(params, name) == ARRIVES.get(name, value)
    if "force_words_ids" in given:
        assert params.force_words_ids == (((5, 6),), ((7,), (8, 9)))
    if "constraints" in given:
        assert params.force_words_ids == (((5, 6),),)
        assert params.n == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_their_fields_and_flags_win(preset: str, gpt2: Gpt2, model: FakeModel) -> None:
    assert gpt2("generate", "x", "--preset", preset).code == 0
    assert gpt2("generate", "x", "--preset", preset, "--max-new-tokens", "5").code == 0
    first, second = (params for _, params in model.calls)
    assert all(getattr(first, name) == value for name, value in PRESETS[preset].items())
    assert second.max_new_tokens == 5


def test_without_a_word_on_choosing_the_preset_is_story(gpt2: Gpt2, model: FakeModel) -> None:
    for argv in (["--seed", "3"], ["--temperature", "1"], ["--temperature", "0"]):
        assert gpt2("generate", "x", *argv).code == 0
    default, sampling, greedy = (params for _, params in model.calls)
    assert all(getattr(default, name) == value for name, value in PRESETS["story"].items())
    assert (sampling.top_p, sampling.repetition_penalty) == (1.0, 1.0)
    assert (greedy.temperature, greedy.repetition_penalty) == (0.0, 1.0)


def test_alternatives_come_one_after_the_other(gpt2: Gpt2, model: FakeModel) -> None:
    done = gpt2("generate", "x", "--num", "3")
    assert done.out == "".join(f"--- {i} of 3 ---\n{model.text}\n" for i in (1, 2, 3))


def test_in_order_is_live_for_the_first_alternative() -> None:
    seen: list[str] = []

    def source() -> Any:
        for text, index, end in [
            ("b", 1, False),
            ("a", 0, False),
            ("B", 1, True),
            ("A", 0, True),
            ("c", 2, True),
        ]:
            seen.append(text)
            yield Chunk(text=text, tokens=(), index=index, finish_reason="length" if end else None)

    out = generate.in_order(source())
    assert next(out).text == "a"
    assert seen == ["b", "a"]  # not held back until the end
    assert "".join(chunk.text for chunk in out) == "AbBc"


def test_json_lines_give_the_pieces_and_the_whole(gpt2: Gpt2, model: FakeModel) -> None:
    done = gpt2("generate", "x", "--json", "--num", "2", "--seed", "5")
    records = [json.loads(line) for line in done.out.splitlines()]
    whole = [record for record in records if record["type"] == "completion"]
    assert [record["index"] for record in whole] == [0, 1]
    for record in whole:
        pieces = [r["text"] for r in records if r["type"] == "chunk" and r["index"] == record["index"]]
        assert "".join(pieces) == record["text"] == model.text
        assert (record["seed"], record["finish_reason"]) == (5, "length")


class EventfulModel(FakeModel):
    """Cuts, slides, and ends with a full window."""

    def completion(self, index: int, seed: int) -> Completion:
        cut = Cut(policy="left", original=100, start=0, stop=40)
        return Completion(
            text=self.text,
            tokens=(1,),
            finish_reason="context",
            prompt_tokens=60,
            seed=1,
            truncated=cut,
            slides=2,
        )


def test_what_was_cut_is_said_on_stderr(gpt2: Gpt2, model: FakeModel) -> None:
    model.completion = EventfulModel().completion  # type: ignore[method-assign]
    done = gpt2("generate", "x")
    assert done.out == model.text + "\n"
    assert "40 of 100 prompt tokens were cut (left)" in done.err
    assert "moved 2 times" in done.err
    assert "--overflow slide" in done.err


def test_model_flags_go_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpt2
    from gpt2.cli import arguments

    seen: list[Any] = []
    monkeypatch.setattr(gpt2, "load", lambda model, **options: seen.append((model, options)), raising=False)
    arguments.load_model(Namespace(model="d", weights="auto", threads=2, isa="avx2"))
    assert seen == [("d", {"weights": "auto", "threads": 2, "isa": "avx2"})]
