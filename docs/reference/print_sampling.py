"""Print the page of the decoding options from the fields, presets and rules themselves.

    python docs/reference/print_sampling.py

writes sampling.md beside this file; tests/decoding/test_page.py fails when what is on the disk differs. It
knows nothing of the command line, which has a page of its own.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from gpt2.decoding import PRESETS, RULE_ORDER, fields_table, option_specs, sampling
from gpt2.decoding.stop import StopMatcher

PAGE = Path(__file__).resolve().parent / "sampling.md"

HEAD = """\
<!-- Printed by docs/reference/print_sampling.py; change the code, then run: just docs -->

# The decoding options

How a text is continued. The names are those of transformers' `generate`; the same ones serve in Python
(`lm.generate(prompt, top_p=0.9)`, or a `SamplingParams`) and on the command line (`--top-p 0.9`). A value
outside its range, an unknown name, or two options that contradict each other are errors that say so.
"""

RULES = """\
## The order of the rules

Whatever the order in which options are given, they are applied in this one: that of transformers' `generate`,
with the rules that only llama.cpp has where llama.cpp has them. Each is a function of
`gpt2.decoding.sampling`; the native sampler gives the same tokens.
"""

ORDER = """
`sampler_order` gives another order, as a list of these names or as one text with `;` between them. It must
name every rule that is switched on; the others may be left out. A rule that looks at the history (before
temperature in this list) and is put after one that shapes the draw sees scores counted from the largest, so
that none is above 0. The mask of a grammar comes before all rules, `renormalize_logits` after them.
"""

NOTES = """\
## Log-probabilities

`logprobs` reports the model's own: log-softmax of the unchanged logits, temperature 1, before any rule. So
they do not depend on the other options, and a token that a rule made certain still shows how probable the
model thought it.

## Random numbers

A draw depends on the seed, on which of the `n` alternatives it is for, and on how many tokens were generated
before it; on nothing else. A text is therefore the same alone or in a batch, streamed or not, and the k-th
alternative is the same whatever `n` is. Another `max_new_tokens` makes the text longer or shorter, not
different.
"""

TEXTS = {
    "logit_bias": "Add each bias to the score of its token.",
    "sequence_bias": sampling.bias_sequences,
    "repetition_penalty": sampling.penalise_repetition,
    "frequency_penalty": sampling.penalise_frequency,
    "presence_penalty": "The other half of that formula.",
    "dry_multiplier": sampling.penalise_dry,
    "no_repeat_ngram_size": sampling.ban_repeated_ngrams,
    "bad_words_ids": "Ban the last token of each sequence where the text ends with the others.",
    "min_length": "Ban the end-of-text token and the stop token ids before this many tokens with the prompt.",
    "min_new_tokens": "Ban the end-of-text token and the stop token ids before this many tokens.",
    "forced_bos_token_id": "Ban all but this token after a prompt of one token.",
    "forced_eos_token_id": "Ban all but these tokens where the next one is the last that fits.",
    "exponential_decay_length_penalty": sampling.decay_length,
    "suppress_tokens": "Ban these tokens.",
    "begin_suppress_tokens": "Ban these tokens where the text begins.",
    "forced_decoder_ids": "Ban all but the token that is forced at this position.",
    "temperature": (sampling.divide_by_temperature, sampling.dynamic_temperature),
    "top_n_sigma": sampling.keep_top_n_sigma,
    "top_h": sampling.keep_top_h,
    "top_k": sampling.keep_top_k,
    "top_p": sampling.keep_top_p,
    "min_p": sampling.keep_min_p,
    "typical_p": sampling.keep_typical,
    "epsilon_cutoff": sampling.keep_epsilon,
    "eta_cutoff": sampling.keep_eta,
    "xtc_probability": sampling.exclude_top,
    "mirostat": (sampling.keep_mirostat_1, sampling.keep_mirostat_2),
}
"""Rule -> what it does, or the functions whose docstrings say it."""


def page() -> str:
    return "\n".join([HEAD, _options(), _formulas(), _presets(), RULES, _steps(), NOTES, _stops()])


def _options() -> str:
    rows = ["| option | type | default | values | meaning | source |", "|---|---|---|---|---|---|"]
    for name, kind, default, values, meaning, paper in fields_table():
        meaning = meaning.replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {default} | {values} | {meaning} | {_link(paper)} |")
    return "\n".join([*rows, ""])


def _formulas() -> str:
    head = ["## Formulas and examples\n", "| option | formula | example |", "|---|---|---|"]
    rows = []
    for spec in option_specs():
        formula = (spec.formula or "").replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{spec.name}` | {formula} | `{spec.example}` |")
    return "\n".join(
        [*head, *rows, "\np probability, H entropy, V vocabulary. The tests run every example.\n"]
    )


def _link(paper: str) -> str:
    kind, _, number = paper.partition(":")
    return f"[{paper}](https://arxiv.org/abs/{number})" if kind == "arXiv" else paper


def _presets() -> str:
    rows = ["## Presets\n", "| preset | options |", "|---|---|"]
    for name, fields in PRESETS.items():
        rows.append(f"| `{name}` | {', '.join(f'`{key}={value!r}`' for key, value in fields.items())} |")
    return "\n".join([*rows, "\nAn option that is given besides wins over the preset.\n"])


def _steps() -> str:
    lines = []
    for i, name in enumerate(RULE_ORDER, start=1):
        given = TEXTS[name] if isinstance(TEXTS[name], tuple) else (TEXTS[name],)
        texts = [one if isinstance(one, str) else inspect.getdoc(one) or "" for one in given]
        lines.append(f"{i}. **{name}.** {' '.join(' '.join(texts).split())}")
    first = RULE_ORDER.index("temperature") + 1
    greedy = (
        f"With temperature 0 the rules from {first} on are one: the largest score, ties to the lowest id."
    )
    return "\n".join([*lines, "", greedy, ORDER])


def _stops() -> str:
    module = inspect.getdoc(inspect.getmodule(StopMatcher)) or ""
    return "\n".join(["## Stop strings\n", module.split("\n\n", 1)[1], ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
