"""Print the page of the decoding options from the fields, presets and rules themselves.

    python docs/reference/print_sampling.py

writes sampling.md beside this file; tests/decoding/test_page.py fails when what is on the disk differs. It
knows nothing of the command line, which has a page of its own.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from gpt2.decoding import PRESETS, fields_table, sampling
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

Whatever the order in which options are given, they are applied in this one, which is that of transformers.
Each is a function of `gpt2.decoding.sampling`; the native sampler gives the same tokens.
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

STEPS = (
    ("repetition_penalty", sampling.penalise_repetition),
    ("no_repeat_ngram_size", sampling.ban_repeated_ngrams),
    ("min_new_tokens", "Ban the end-of-text token and the stop token ids before this many tokens."),
    ("temperature", sampling.divide_by_temperature),
    ("top_k", sampling.keep_top_k),
    ("top_p", sampling.keep_top_p),
    ("min_p", sampling.keep_min_p),
    ("draw", sampling.draw),
)


def page() -> str:
    return "\n".join([HEAD, _options(), _presets(), RULES, _steps(), NOTES, _stops()])


def _options() -> str:
    rows = ["| option | type | default | values | meaning | source |", "|---|---|---|---|---|---|"]
    for name, kind, default, values, meaning, paper in fields_table():
        meaning = meaning.replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {default} | {values} | {meaning} | {_link(paper)} |")
    return "\n".join([*rows, ""])


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
    for i, (name, step) in enumerate(STEPS, start=1):
        text = step if isinstance(step, str) else inspect.getdoc(step) or ""
        lines.append(f"{i}. **{name}.** {' '.join(text.split())}")
    greedy = "With temperature 0 steps 4 to 8 are one: the largest score, ties to the lowest id."
    return "\n".join([*lines, "", greedy, ""])


def _stops() -> str:
    module = inspect.getdoc(inspect.getmodule(StopMatcher)) or ""
    return "\n".join(["## Stop strings\n", module.split("\n\n", 1)[1], ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
