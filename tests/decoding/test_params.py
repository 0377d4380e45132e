"""SamplingParams: every value is checked once, and the message says which, what it was and what it should
be."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gpt2 import _native
from gpt2.decoding import (
    PRESETS,
    RULE_ORDER,
    DisjunctiveConstraint,
    PhrasalConstraint,
    SamplingParams,
    fields_table,
    option_specs,
    params,
)
from gpt2.errors import InvalidRequest, UnknownOption

WRONG: list[tuple[str, Any]] = [
    ("max_new_tokens", -1),
    ("max_new_tokens", 1.5),
    ("max_new_tokens", None),
    ("max_new_tokens", True),
    ("max_new_tokens", math.inf),
    ("min_new_tokens", -1),
    ("max_length", 0),
    ("min_length", -1),
    ("max_time", 0),
    ("max_time", math.inf),
    ("dynatemp_range", -0.1),
    ("dynatemp_exponent", math.nan),
    ("top_n_sigma", -1),
    ("top_h", 1.1),
    ("typical_p", 0),
    ("epsilon_cutoff", 1),
    ("eta_cutoff", -0.1),
    ("xtc_probability", 1.5),
    ("xtc_threshold", 0.6),
    ("mirostat", 3),
    ("mirostat_tau", -1),
    ("mirostat_eta", math.inf),
    ("min_tokens_to_keep", 0),
    ("frequency_penalty", math.nan),
    ("presence_penalty", "1"),
    ("repeat_last_n", -2),
    ("dry_multiplier", -1),
    ("dry_base", 0.9),
    ("dry_allowed_length", 0),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", ("",)),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {3: math.inf}),
    ("logit_bias", {-3: 1}),
    ("logit_bias", [3]),
    ("sequence_bias", [[[], 1.0]]),
    ("sequence_bias", {3: 1.0}),
    ("bad_words", ("",)),
    ("bad_words_ids", [[1], []]),
    ("bad_words_ids", [1]),
    ("suppress_tokens", (-1,)),
    ("begin_suppress_tokens", ("a",)),
    ("forced_bos_token_id", -1),
    ("forced_eos_token_id", 1.5),
    ("forced_decoder_ids", [[1, 2, 3]]),
    ("exponential_decay_length_penalty", [1]),
    ("exponential_decay_length_penalty", [1, 0]),
    ("renormalize_logits", 1),
    ("sampler_order", ("top_k", "top_k")),
    ("sampler_order", "top_k;topp"),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", -0.1),
    ("temperature", 1e-300),
    ("temperature", "1"),
    ("temperature", None),
    ("max_new_tokens", 2**31),
    ("min_new_tokens", 2**63),
    ("top_k", -1),
    ("top_k", 2**31),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", math.nan),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", math.inf),
    ("no_repeat_ngram_size", -1),
    ("stop", ""),
    ("stop", ("a", "")),
    ("stop", ("a", 1)),
    ("stop", 5),
    ("stop_token_ids", (-1,)),
    ("stop_token_ids", ("1",)),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", 0.5),
    ("logprobs", -1),
    ("logprobs", 21),
    ("n", 0),
    ("num_return_sequences", 0),
    ("best_of", 0),
    ("do_sample", 1),
    ("num_beams", 0),
    ("num_beams", 1025),
    ("num_beam_groups", 0),
    ("diversity_penalty", -1.0),
    ("length_penalty", math.inf),
    ("early_stopping", "always"),
    ("early_stopping", 1.5),
    ("force_words_ids", 5),
    ("force_words_ids", [[]]),
    ("force_words_ids", [[-1]]),
    ("force_words_ids", [[1, 2], 3]),
    ("force_words_ids", [[[1], [1, 2]]]),
    ("constraints", ["word"]),
    ("penalty_alpha", 1.1),
    ("dola_layers", "middle"),
    ("dola_layers", (-1,)),
    ("guidance_scale", math.nan),
    ("negative_prompt", 5),
    ("negative_prompt_ids", (1.5,)),
    ("truncate", "top"),
    ("overflow", None),
    ("ignore_eos", 1),
    ("allow_special", "yes"),
    ("json_schema", "no JSON"),
    ("json_schema", True),
    ("regex", ""),
    ("regex", 5),
    ("choice", ("a", "")),
    ("grammar", ""),
    ("token_healing", None),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: repr(v))
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{name: value})
    error = caught.value
    assert error.what == name
    assert error.got == repr(value)
    assert error.expected


def test_edges_that_are_allowed() -> None:
    p = SamplingParams(
        max_new_tokens=0, temperature=0, top_k=2**31 - 1, top_p=1e-300, min_p=1, seed=2**64 - 1, logprobs=0
    )
    assert p.greedy
    assert not SamplingParams().greedy
    assert SamplingParams(top_k=np.int64(5), temperature=np.float32(0.5)).top_k == 5


def test_values_are_stored_in_one_form() -> None:
    p = SamplingParams(stop="END", stop_token_ids=[7, 7, 8], temperature=1, top_k=3.0)
    assert p.stop == ("END",)
    assert p.stop_token_ids == (7, 8)
    assert isinstance(p.temperature, float)
    assert isinstance(p.top_k, int)
    assert p == SamplingParams(stop=["END"], stop_token_ids=(7, 8), top_k=3)
    assert hash(p) == hash(SamplingParams(stop=["END"], stop_token_ids=(7, 8), top_k=3))


def test_it_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 0.5  # type: ignore[misc]
    assert SamplingParams().replace(temperature=0.5).temperature == 0.5
    with pytest.raises(InvalidRequest):
        SamplingParams().replace(top_p=2)


def test_a_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(temperature="secret " * 1000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("make", [SamplingParams.from_options, SamplingParams().replace])
def test_an_unknown_name_gets_advice(make: Any) -> None:
    with pytest.raises(UnknownOption, match="did you mean 'temperature'"):
        make(temprature=1)


def test_contradictions_name_both_sides() -> None:
    with pytest.raises(InvalidRequest, match=r"min_new_tokens=9, max_new_tokens=8"):
        SamplingParams(min_new_tokens=9, max_new_tokens=8)
    for name, value in {"top_k": 5, "top_p": 0.5, "min_p": 0.1}.items():
        with pytest.raises(InvalidRequest, match=f"temperature=0, {name}={value}"):
            SamplingParams.from_options(temperature=0, **{name: value})
        with pytest.raises(InvalidRequest, match=f"temperature=0, {name}={value}"):
            SamplingParams.from_options("exact", **{name: value})


def test_lists_and_mappings_are_stored_in_one_form() -> None:
    p = SamplingParams(
        logit_bias={"5": 1, 6: -math.inf},
        sequence_bias={(1, 2): 0.5},
        bad_words_ids=[[1], [2, 3], [1]],
        forced_decoder_ids={"4": 7},
        exponential_decay_length_penalty=[3, 1.1],
        forced_eos_token_id=9,
        sampler_order="logit_bias; sequence_bias, bad_words_ids forced_eos_token_id "
        "exponential_decay_length_penalty;forced_decoder_ids",
    )
    assert p.logit_bias == ((5, 1.0), (6, -math.inf))
    assert p.sequence_bias == (((1, 2), 0.5),)
    assert p.bad_words_ids == ((1,), (2, 3))
    assert p.forced_decoder_ids == ((4, 7),)
    assert p.exponential_decay_length_penalty == (3, 1.1)
    assert p.forced_eos_token_id == (9,)
    assert p.rules == p.sampler_order
    assert hash(p) == hash(p.replace(seed=None))
    assert SamplingParams(sequence_bias=[[[1, 2], 0.5]]).sequence_bias == p.sequence_bias


def test_rules_that_are_on_are_in_their_order() -> None:
    p = SamplingParams(top_p=0.9, temperature=0.7, repetition_penalty=1.1, bad_words="no")
    assert p.rules == ("repetition_penalty", "bad_words_ids", "temperature", "top_p")
    assert SamplingParams(temperature=0, min_length=3).rules == ("min_length",)
    assert SamplingParams(dynatemp_range=0.1).rules == ("temperature",)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"min_length": 9, "max_length": 8}, ("min_length", "max_length")),
        ({"ignore_eos": True, "exponential_decay_length_penalty": (1, 1.1)}, ("ignore_eos", "exponential")),
        ({"sampler_order": ("top_k",), "top_k": 5, "top_p": 0.9}, ("sampler_order", "top_p")),
        ({"temperature": 0, "mirostat": 2}, ("temperature", "mirostat")),
        ({"temperature": 0, "dynatemp_range": 0.5}, ("temperature", "dynatemp_range")),
        ({"xtc_threshold": 0.2}, ("xtc_threshold", "xtc_probability")),
        ({"mirostat_tau": 3.0}, ("mirostat_tau", "mirostat")),
        ({"dry_base": 3.0}, ("dry_base", "dry_multiplier")),
        ({"repeat_last_n": 3}, ("repeat_last_n", "frequency_penalty")),
        ({"dynatemp_exponent": 3}, ("dynatemp_exponent", "dynatemp_range")),
    ],
)
def test_options_that_void_each_other_are_both_named(options: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams.from_options(**options)
    assert all(name in str(caught.value) for name in names)


def test_max_length_is_the_limit_unless_max_new_tokens_is_given_too() -> None:
    assert SamplingParams.from_options("story", max_length=900).max_new_tokens == 900
    assert SamplingParams.from_options(max_length=900, max_new_tokens=5).max_new_tokens == 5


CONTRADICTIONS: list[dict[str, Any]] = [
    {"num_beams": 4, "penalty_alpha": 0.6, "top_k": 4},
    {"num_beams": 4, "guidance_scale": 1.5},
    {"dola_layers": "low", "guidance_scale": 1.5},
    {"penalty_alpha": 0.6, "top_k": 1},
    {"penalty_alpha": 0.6, "top_k": 4, "do_sample": True},
    {"penalty_alpha": 0.6, "top_k": 4, "n": 2},
    {"num_beams": 4, "n": 5},
    {"num_beams": 4, "temperature": 0.7},
    {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
    {"num_beams": 4, "num_beam_groups": 2},
    {"num_beams": 4, "diversity_penalty": 1.0},
    {"num_beams": 4, "force_words_ids": [[1]], "do_sample": True},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "force_words_ids": [[1]]},
    {"num_beams": 4, "do_sample": True, "mirostat": 2},
    {"num_beams": 4, "do_sample": True, "dynatemp_range": 0.5},
    {"length_penalty": 2.0},
    {"early_stopping": True},
    {"force_words_ids": [[1]]},
    {"num_return_sequences": 3, "n": 2},
    {"do_sample": False, "temperature": 0.7},
    {"do_sample": True, "temperature": 0.0},
    {"negative_prompt": "No"},
    {"negative_prompt": "No", "negative_prompt_ids": [1], "guidance_scale": 1.5},
    {"best_of": 2, "n": 3},
    {"best_of": 2, "temperature": 0.0},
]


@pytest.mark.parametrize("options", CONTRADICTIONS, ids=lambda options: "-".join(options))
def test_contradictions_of_the_strategies_name_both_sides(options: dict[str, Any]) -> None:
    for make in (SamplingParams, SamplingParams.from_options):
        with pytest.raises(InvalidRequest, match="contradict each other") as caught:
            make(**options)
        assert str(caught.value.got).count("=") >= 2


def test_what_draws_nothing_refuses_options_of_the_draw() -> None:
    for why in ({"num_beams": 4}, {"do_sample": False}, {"penalty_alpha": 0.6, "top_k": 4}):
        with pytest.raises(InvalidRequest, match="and top_p contradict"):
            SamplingParams.from_options(**why, top_p=0.5)
        # A preset's way of drawing gives way, an option by name does not.
        settled = SamplingParams.from_options("story", **why)
        assert settled.greedy
        assert settled.top_p == 1.0
        assert settled.repetition_penalty == 1.05
    assert SamplingParams.from_options("story", num_beams=4, do_sample=True).top_p == 0.9


def test_the_names_of_transformers_settle_to_one_form() -> None:
    class Theirs:
        token_ids = ([3, 4], [5])

    p = SamplingParams(num_beams=3, num_return_sequences=2, constraints=[Theirs(), PhrasalConstraint([7, 8])])
    assert p.n == 2
    assert p.replace(n=3).n == 3
    assert p.force_words_ids == (((3, 4), (5,)), ((7, 8),))
    assert p == SamplingParams(num_beams=3, n=2, force_words_ids=[[[3, 4], [5]], [7, 8]])
    assert p.replace(seed=1).replace(seed=None) == p
    assert SamplingParams(constraints=[DisjunctiveConstraint([[1], [2]])], num_beams=2).greedy
    assert SamplingParams(do_sample=False).temperature == 0.0
    assert SamplingParams(do_sample=False) == SamplingParams(temperature=0, do_sample=False)
    assert not SamplingParams(num_beams=2, do_sample=True).greedy


def test_presets_are_valid_and_options_win_over_them() -> None:
    assert list(PRESETS) == ["story", "chat", "code", "exact"]
    for name, fields in PRESETS.items():
        p = SamplingParams.from_options(name)
        assert {key: getattr(p, key) for key in fields} == dict(fields)
    assert SamplingParams.from_options("story", temperature=0.5).temperature == 0.5
    greedy = SamplingParams.from_options("story", temperature=0)
    assert greedy.greedy
    assert greedy.top_p == 1.0
    with pytest.raises(InvalidRequest, match="did you mean 'story'"):
        SamplingParams.from_options("stori")


def test_the_table_and_the_class_say_the_same() -> None:
    fields = dataclasses.fields(SamplingParams)
    specs = option_specs()
    assert [f.name for f in fields] == [s.name for s in specs] == [row[0] for row in fields_table()]
    assert [f.default for f in fields] == [s.default for s in specs]
    for field, spec in zip(fields, specs, strict=True):
        assert spec.help.endswith(".")
        assert isinstance(field.default, tuple) <= (spec.multiple or spec.json)
        assert isinstance(field.default, tuple) or not spec.multiple
        if spec.choices:
            for choice in spec.choices:
                SamplingParams(**{"num_beams": 2, spec.name: choice})


def test_every_field_has_a_line_of_meaning_and_the_paper_of_its_method() -> None:
    (tree,) = ast.parse(inspect.getsource(params.SamplingParams)).body
    assert isinstance(tree, ast.ClassDef)
    meaning: dict[str, str] = {}
    for node, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(following, ast.Expr), node.target.id
            meaning[node.target.id] = ast.literal_eval(following.value)
    for spec in option_specs():
        assert meaning[spec.name]
        if (spec.paper or "").startswith("arXiv"):
            assert str(spec.paper) in meaning[spec.name]


def test_the_room_opens_without_numpy() -> None:
    code = "import sys, gpt2.decoding; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_native_sampler_has_the_same_rules_in_the_same_order() -> None:
    assert tuple(_native.SamplerParams().sampler_order) == RULE_ORDER
