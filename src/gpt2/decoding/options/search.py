"""How the options of the strategies settle and which of them contradict each other.

Used by SamplingParams alone, which stands above; here it is `Any`. Knows no strategy's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from gpt2.errors import InvalidRequest

_STRATEGIES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "num_beams": lambda p: p.num_beams > 1,
    "penalty_alpha": lambda p: bool(p.penalty_alpha),
    "dola_layers": lambda p: p.dola_layers is not None,
    "guidance_scale": lambda p: p.guidance_scale not in (None, 1.0),
    "best_of": lambda p: p.best_of is not None,
    "prompt_lookup_num_tokens": lambda p: p.prompt_lookup_num_tokens is not None,
    "json_schema": lambda p: p.json_schema is not None,
    "regex": lambda p: p.regex is not None,
    "choice": lambda p: bool(p.choice),
    "grammar": lambda p: p.grammar is not None,
    "token_healing": lambda p: p.token_healing,
}
"""Option -> whether it asks for its strategy. One request has one of them."""

_BEAMS_ONLY: Final[Mapping[str, Any]] = {
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "force_words_ids": (),
}
"""Option -> the value that asks for nothing."""


def settled(params: Any) -> dict[str, Any]:
    """The fields that are stored in another form than they were given: synonyms under their one name, and
    do_sample=False as temperature 0."""
    out: dict[str, Any] = {}
    if params.num_return_sequences is not None:
        if params.n not in (1, params.num_return_sequences):
            _contradiction(params, "n", "num_return_sequences", "one of them")
        out |= {"n": params.num_return_sequences, "num_return_sequences": None}
    if params.constraints:
        out |= {"force_words_ids": params.constraints + params.force_words_ids, "constraints": ()}
    if params.do_sample is False:
        if params.temperature not in (0.0, 1.0):
            _contradiction(params, "do_sample", "temperature", "one of them", "leave out temperature")
        out["temperature"] = 0.0
    return out


def check(params: Any) -> None:
    """Raises InvalidRequest for options that contradict each other or have no effect."""
    if params.do_sample and params.temperature == 0.0:
        _contradiction(params, "do_sample", "temperature", "a temperature above 0 to draw")
    asked = [name for name, asks in _STRATEGIES.items() if asks(params)]
    if len(asked) > 1:
        _contradiction(params, asked[0], asked[1], "one strategy")
    _check_beams(params)
    if params.penalty_alpha:
        if params.top_k < 2:
            _contradiction(params, "penalty_alpha", "top_k", "top_k of at least 2", "top_k=4")
        if params.do_sample:
            _contradiction(params, "penalty_alpha", "do_sample", "one of them")
        if params.n > 1:
            _contradiction(params, "penalty_alpha", "n", "n=1, since nothing is drawn")
    _check_guidance(params)
    if params.max_matching_ngram_size is not None and params.prompt_lookup_num_tokens is None:
        _contradiction(
            params,
            "max_matching_ngram_size",
            "prompt_lookup_num_tokens",
            "both or neither",
            "prompt_lookup_num_tokens=8",
        )
    if params.best_of is not None:
        if params.best_of < params.n:
            _contradiction(params, "best_of", "n", "best_of >= n")
        if params.temperature == 0.0 and params.best_of > 1:
            _contradiction(params, "best_of", "temperature", "a temperature above 0, so that they differ")


def _check_beams(params: Any) -> None:
    if params.num_beams == 1:
        for name, off in _BEAMS_ONLY.items():
            if getattr(params, name) != off:
                _contradiction(params, name, "num_beams", f"more than one beam for {name}", "num_beams=4")
        return
    for name in ("mirostat", "dynatemp_range"):
        if getattr(params, name):
            _contradiction(params, name, "num_beams", "one of them: it steers one text, not several at once")
    if params.n > params.num_beams:
        _contradiction(params, "n", "num_beams", "n <= num_beams")
    if params.temperature not in (0.0, 1.0) and not params.do_sample:
        _contradiction(params, "num_beams", "temperature", "one of them", "do_sample=True for beam sampling")
    if params.num_beam_groups > 1:
        if params.num_beams % params.num_beam_groups:
            _contradiction(params, "num_beams", "num_beam_groups", "groups of equal size")
        if params.diversity_penalty == 0.0:
            _contradiction(
                params, "num_beam_groups", "diversity_penalty", "a penalty above 0", "diversity_penalty=1.0"
            )
    elif params.diversity_penalty:
        _contradiction(params, "diversity_penalty", "num_beam_groups", "more than one group")
    for name in ("num_beam_groups", "force_words_ids"):
        if params.do_sample and getattr(params, name) != _BEAMS_ONLY[name]:
            _contradiction(params, "do_sample", name, "one of them")
    if params.force_words_ids and params.num_beam_groups > 1:
        _contradiction(params, "force_words_ids", "num_beam_groups", "one of them")


def _check_guidance(params: Any) -> None:
    for name in ("negative_prompt", "negative_prompt_ids"):
        if getattr(params, name) is not None and params.guidance_scale in (None, 1.0):
            _contradiction(
                params, name, "guidance_scale", "a guidance_scale other than 1", "guidance_scale=1.5"
            )
    if params.negative_prompt is not None and params.negative_prompt_ids is not None:
        _contradiction(params, "negative_prompt", "negative_prompt_ids", "one of them")
    if params.negative_prompt_ids == ():
        raise InvalidRequest("negative_prompt_ids", got="()", expected="token ids, at least one")


def _contradiction(params: Any, one: str, other: str, expected: str, hint: str | None = None) -> NoReturn:
    raise InvalidRequest(
        f"{one} and {other} contradict each other",
        got=f"{one}={_shown(getattr(params, one))}, {other}={_shown(getattr(params, other))}",
        expected=expected,
        hint=hint,
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
