"""The table of decoding options: one row per field of SamplingParams, for flags, checks and docs.

It knows what an option is called, which values it takes and what it means, not how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gpt2.decoding.options import constraints
from gpt2.decoding.options.rules import DRAWS, HISTORY, LENGTHS
from gpt2.decoding.options.spec import OptionSpec, Rule, row
from gpt2.decoding.options.values import (
    MOST,
    boolean,
    dola_layers,
    early_stopping,
    id_sequence,
    ids,
    integer,
    number,
    one_of,
    optional,
    schema,
    some_text,
    strings,
    text,
)

MAX_LOGPROBS: Final = 20
"""More than this per token is a question for LanguageModel.logits()."""

_REST = (
    row(
        "stop", str, (), strings, "strings, none of them empty",
        "Stop before the first of these strings; it is not part of the text.", multiple=True,
        example='stop=["\\n\\n", "The end"]',
    ),
    row(
        "stop_token_ids", int, (), ids, "token ids, whole numbers of 0 or more",
        "Stop at the first of these tokens; its text is not part of the text.", multiple=True,
        example='stop_token_ids=[13]',
    ),
    row(
        "seed", int, None, optional(integer(0, 2**64 - 1)), "a whole number in [0, 2**64)",
        "The same seed gives the same text; without one it is chosen at random and reported.",
        paper="Salmon et al. 2011, doi:10.1145/2063384.2063405",
        example='seed=7',
    ),
    row(
        "logprobs", int, None, optional(integer(0, MAX_LOGPROBS)), f"a whole number in [0, {MAX_LOGPROBS}]",
        "Report the model's own log-probability of each token, and of this many most probable ones.",
        hint="LanguageModel.logits() gives all of them",
        example='logprobs=3',
    ),
    row(
        "n", int, 1, integer(1, 2**16), "a whole number in [1, 65536]",
        "How many alternatives to generate; the k-th is the same whatever n is.",
        example='n=2',
    ),
    row(
        "num_return_sequences", int, None, optional(integer(1, 2**16)), "a whole number in [1, 65536]",
        "Another name of n.",
        example='num_return_sequences=2',
    ),
    row(
        "best_of", int, None, optional(integer(1, 2**16)), "a whole number in [1, 65536]",
        "Draw this many alternatives and keep the n whose tokens are on average the most probable.",
        formula="rank by the mean of ln p of the tokens, p at temperature 1 without rules",
        example='best_of=4, n=2',
    ),
    row(
        "prompt_lookup_num_tokens", int, None, optional(integer(1, 64)), "a whole number in [1, 64]",
        "Guess up to this many tokens from what followed the last ones earlier in the text, and check them "
        "in one step: the same text, sooner where it repeats.",
        paper="Saxena 2023, Prompt Lookup Decoding", hint="prompt_lookup_num_tokens=8",
        formula="a guess stands if it equals the token drawn in its place",
        example='prompt_lookup_num_tokens=8',
    ),
    row(
        "max_matching_ngram_size", int, None, optional(integer(1, 64)), "a whole number in [1, 64]",
        "So many tokens are compared for prompt_lookup_num_tokens, or fewer where so many have not occurred; "
        "2 unless given.",
        example='prompt_lookup_num_tokens=8, max_matching_ngram_size=3',
    ),
    row(
        "do_sample", bool, None, optional(boolean), "true or false",
        "False is greedy, as temperature 0 is; beams draw only if it is true.",
        example='do_sample=False',
    ),
    row(
        "num_beams", int, 1, integer(1, 2**10), "a whole number in [1, 1024]",
        "Follow this many texts side by side and return the n with the best score; 1 is off.",
        paper="Lowerre 1976, The HARPY speech recognition system",
        example='num_beams=4',
    ),
    row(
        "num_beam_groups", int, 1, integer(1, 2**10), "a whole number that divides num_beams",
        "Split the beams into groups that are made to differ; 1 is off.", paper="arXiv:1610.02424",
        example='num_beams=4, num_beam_groups=2, diversity_penalty=1.0',
    ),
    row(
        "diversity_penalty", float, 0.0, number(0.0, MOST), "a finite number, 0 or more",
        "What a group's token costs for each beam of the groups before that has just taken it.",
        paper="arXiv:1610.02424",
        formula="score -= diversity_penalty count of the token in this step",
        example='num_beams=4, num_beam_groups=4, diversity_penalty=0.5',
    ),
    row(
        "length_penalty", float, 1.0, number(-100.0, 100.0), "a number in [-100, 100]",
        "A beam's score is its log-probability / length ** length_penalty: above 0 favours long texts.",
        paper="arXiv:1609.08144",
        formula="sum of scores / length^length_penalty",
        example='num_beams=4, length_penalty=0.5',
    ),
    row(
        "early_stopping", str, False, early_stopping, "true, false or never",
        "When beams end: true, at num_beams complete texts; false, when a better one is unlikely; never, "
        "when it is impossible.", choices=("true", "false", "never"),
        example='num_beams=4, early_stopping=True',
    ),
    row(
        "force_words_ids", str, (), constraints.words, "lists of token ids, or lists of such lists",
        "Words that must occur (beams only), each as its ids, or as several lists of which one will do.",
        multiple=True,
        paper="arXiv:1804.06609", hint="[[262, 995], [[1842], [5448, 13]]]",
        example='num_beams=4, force_words_ids=[[262], [[13], [11]]]',
    ),
    row(
        "constraints", str, (), constraints.words, "PhrasalConstraint or DisjunctiveConstraint objects",
        "Another form of force_words_ids.", paper="arXiv:1804.06609", multiple=True,
        example='num_beams=4, constraints=[PhrasalConstraint([262, 13])]',
    ),
    row(
        "penalty_alpha", float, None, optional(number(0.0, 1.0)), "a number in [0, 1]",
        "Contrastive search among the top_k tokens: the weight of being unlike what is there.",
        paper="arXiv:2202.06417", hint="penalty_alpha=0.6, top_k=4",
        formula="(1 - alpha) p(token) - alpha max cos(h(token), h(any before))",
        example='penalty_alpha=0.6, top_k=4',
    ),
    row(
        "dola_layers", str, None, dola_layers, "low, high or layers, whole numbers of 0 or more",
        "Contrast the last layer with the one among these that differs most from it.",
        paper="arXiv:2309.03883",
        formula="log_softmax(z of the last layer) - log_softmax(z of the chosen layer)",
        example='dola_layers="high"',
    ),
    row(
        "guidance_scale", float, None, optional(number(-MOST, MOST)), "a finite number",
        "Strengthen what sets the prompt apart from the negative prompt; 1 is off.",
        paper="arXiv:2306.17806", hint="1.5 is usual",
        formula="l = log_softmax(z); score = s (l - l of the negative prompt) + l of the negative prompt",
        example='guidance_scale=1.5',
    ),
    row(
        "negative_prompt", str, None, optional(text), "a text",
        "The prompt that guidance_scale leads away from; without one, the last token of the prompt.",
        paper="arXiv:2306.17806",
        example='guidance_scale=1.5, negative_prompt="A sad story:"',
    ),
    row(
        "negative_prompt_ids", str, None, id_sequence, "token ids, at least one",
        "The negative prompt as token ids.", paper="arXiv:2306.17806",
        example='guidance_scale=1.5, negative_prompt_ids=[262, 13]',
    ),
    row(
        "truncate", str, None, optional(one_of("left", "right", "middle")), "left, right or middle",
        "Where to cut a prompt that does not fit the context window; without it such a prompt is an error.",
        choices=("left", "right", "middle"),
        example='truncate="left"',
    ),
    row(
        "overflow", str, "stop", one_of("stop", "slide"), "stop or slide",
        "When the context window is full: stop, or slide it (read the last part again and go on).",
        choices=("stop", "slide"),
        example='overflow="slide"',
    ),
    row(
        "ignore_eos", bool, False, boolean, "true or false",
        "Go on after the end-of-text token.",
        example='ignore_eos=True',
    ),
    row(
        "allow_special", bool, False, boolean, "true or false",
        "Special tokens written in the prompt (<|endoftext|>) act as such; otherwise they are plain text.",
        example='allow_special=True',
    ),
    row(
        "json_schema", str, None, optional(schema), "a JSON schema: an object, or JSON text that is one",
        "The text is JSON that the schema accepts, with its members in the schema's order.",
        hint='{"type": "object"} for any object',
        example='json_schema={"type": "boolean"}, max_new_tokens=20',
    ),
    row(
        "regex", str, None, optional(some_text), "a regular expression",
        "The whole text matches this expression; look-around and back-references are not known.",
        example='regex="[0-9]{3}"',
    ),
    row(
        "choice", str, (), strings, "strings, none of them empty",
        "The text is one of these strings.", multiple=True,
        example='choice=["yes", "no"]',
    ),
    row(
        "grammar", str, None, optional(some_text), "a grammar in Lark's notation",
        "The text is one that this grammar derives from its rule `start`.",
        example="""grammar='start: "a"+ "."'""",
    ),
    row(
        "token_healing", bool, False, boolean, "true or false",
        "The last tokens of the prompt are chosen anew, among those that begin with its last bytes.",
        example='token_healing=True',
    ),
)  # fmt: skip

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {row.spec.name: row for row in (*LENGTHS, *DRAWS, *HISTORY, *_REST)}
)
"""Option name -> its row, in the order in which they are documented."""


def option_specs() -> list[OptionSpec]:
    """Every option, in the order in which they are documented."""
    return [rule.spec for rule in RULES.values()]
