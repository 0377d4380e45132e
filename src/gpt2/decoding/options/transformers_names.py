"""Names of transformers' `generate` that are no option here: what they become, or what to write instead.

Code that moves over keeps its calls where they mean the same. What would mean something else, or nothing, is
an error that says how it is done here; nothing is dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gpt2.errors import InvalidRequest

NO_EFFECT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pad_token_id": "no text is ever padded",
        "use_cache": "the bits are the same with a cache and without, so that there always is one",
        "return_full_text": "the result is the continuation; False, as here, is accepted",
        "return_dict_in_generate": "the result is an object in any case; True, as here, is accepted",
    }
)
"""Accepted where the value asks for what is done anyway, and why there is nothing to do."""

ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_ids": "the prompt, text or ids, is the first argument: lm.generate(ids)",
        "inputs": "the prompt, text or ids, is the first argument: lm.generate(ids)",
        "text_inputs": "the prompt is the first argument: lm.generate(text)",
        "attention_mask": "no text is padded: give each prompt at its own length, lm.generate([ids, ids])",
        "generation_config": "its fields as options, or SamplingParams(...) as the second argument",
        "streamer": "for chunk in lm.stream(prompt): print(chunk.text, end='')",
        "output_scores": "logprobs=5, or lm.logits(ids)",
        "output_logits": "logprobs=5, or lm.logits(ids)",
        "output_hidden_states": "lm.hidden_states(ids)",
        "past_key_values": "lm.session(): what was computed is found again by itself",
        "assistant_model": "an argument of generate(), no option: lm.generate(prompt, assistant_model=small)",
        "num_assistant_tokens": "nothing: how many are guessed follows from how many were right",
        "num_assistant_tokens_schedule": "nothing: how many are guessed follows from how many were right",
        "assistant_confidence_threshold": "nothing: how many are guessed follows from how many were right",
        "prefix_allowed_tokens_fn": "json_schema, regex, choice or grammar; or logits_processors=[...]",
        "bos_token_id": "the token itself in the prompt; an empty one begins with the end-of-text token",
        "truncation": 'truncate="left", "right" or "middle"',
        "padding": "no text is padded: lm.generate([prompt, prompt])",
        "batch_size": "gpt2.load(..., max_batch=...); prompts of all calls are computed together",
        "device": "gpt2.load(..., threads=..., isa=...): the engine runs on processors",
        "device_map": "gpt2.load(..., threads=..., isa=...): the engine runs on processors",
        "torch_dtype": 'gpt2.load(..., weights="bfloat16")',
        "dtype": 'gpt2.load(..., weights="bfloat16")',
        "generator": "seed=...",
        "random_seed": "seed=...",
        "skip_special_tokens": "the end-of-text token is not part of the text",
        "clean_up_tokenization_spaces": "texts are as they were generated",
    }
)
"""Not accepted: what to write instead."""

_WHAT_IS_DONE: Final[Mapping[str, Any]] = MappingProxyType(
    {"return_full_text": False, "return_dict_in_generate": True}
)
_INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "return_full_text": "prompt + lm.generate(prompt).text",
        "return_dict_in_generate": "lm.generate(prompt).tokens",
    }
)


def ours(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The same options under the names that are `known` here.

    Raises InvalidRequest for a value that asks for something that is not done, or for two names of one thing.
    """
    out: dict[str, Any] = {}
    for name, value in options.items():
        if name in known or name not in (*NO_EFFECT, "stop_strings", "eos_token_id"):
            out[name] = value
        elif name == "stop_strings":
            _only(options, name, "stop")
            out["stop"] = value
        elif name == "eos_token_id" and value is not None:
            _only(options, name, "stop_token_ids")
            _only(options, name, "ignore_eos")
            out |= {"stop_token_ids": value, "ignore_eos": True}
        elif value not in (None, _WHAT_IS_DONE.get(name, value)):
            raise InvalidRequest(
                name, got=repr(value)[:60], expected=repr(_WHAT_IS_DONE[name]), hint=_INSTEAD[name]
            )
    return out


def _only(options: Mapping[str, Any], name: str, other: str) -> None:
    if options.get(other) not in (None, (), [], False):
        raise InvalidRequest(
            f"{name} and {other} contradict each other",
            got=f"{name}={options[name]!r}"[:60] + f", {other}={options[other]!r}"[:60],
            expected="one of them",
        )
