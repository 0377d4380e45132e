"""The rules of the sampler, their order, and the options that set them: lengths, draw, history.

Knows what an option is called, which values it takes and what it means; what the rules do is in sampling/
(readable) and in native/sampling/ (fast).
"""

from __future__ import annotations

import math
from typing import Any, Final

from gpt2.decoding.options.spec import row
from gpt2.decoding.options.values import (
    LEAST,
    MOST,
    biases,
    boolean,
    decay,
    ids,
    integer,
    names_of,
    number,
    optional,
    positions,
    sequence_biases,
    sequences,
    strings,
)

RULE_ORDER: Final = (
    "logit_bias",
    "sequence_bias",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_decoder_ids",
    "temperature",
    "top_n_sigma",
    "top_h",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc_probability",
    "mirostat",
)
"""The rules of the sampler, by the option that switches each on, in the order of transformers' generate();
what only llama.cpp has stands where llama.cpp has it. native/sampling/params.h has the same list."""

_BELOW_ONE = math.nextafter(1.0, 0.0)


def _temperature(value: Any) -> float:
    result = number(0.0, MOST)(value)
    if 0.0 < result < LEAST:
        raise ValueError
    return result


LENGTHS = (
    row(
        "max_new_tokens", int, 128, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "At most this many tokens are generated.",
        example="max_new_tokens=8",
    ),
    row(
        "min_new_tokens", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "The end-of-text token and the stop token ids cannot come before this many tokens.",
        example="min_new_tokens=3",
    ),
    row(
        "max_length", int, None, optional(integer(1, 2**31 - 1)), "a whole number, 1 or more",
        "At most this many tokens with the prompt; without one max_new_tokens alone counts.",
        example="max_length=40",
    ),
    row(
        "min_length", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "The end-of-text token and the stop token ids cannot come before this many tokens with the prompt.",
        example="min_length=30",
    ),
    row(
        "max_time", float, None, optional(number(0.0, open_low=True)), "seconds, above 0",
        "No token is begun after this many seconds; what was generated until then is the result.",
        example="max_time=30.0",
    ),
)  # fmt: skip

DRAWS = (
    row(
        "temperature", float, 1.0, _temperature, "0, or a finite number above it",
        "Divides the logits: below 1 sharpens, above 1 flattens; 0 is greedy, ties to the lowest id.",
        hint="temperature=0 for greedy decoding, 0.7 to 1 for varied text",
        formula="z = (score - max score) / temperature; p = exp(z) / sum exp(z)",
        example="temperature=0.7",
    ),
    row(
        "dynatemp_range", float, 0.0, number(0.0, MOST), "a finite number, 0 or more",
        "The temperature follows the entropy H of the n tokens left, within this range; 0 is off.",
        formula="T = low + (high - low) (H / ln n)^dynatemp_exponent, low = max(0, temperature - range), "
        "high = temperature + range",
        paper="arXiv:2309.02772", example="temperature=0.8, dynatemp_range=0.5",
    ),
    row(
        "dynatemp_exponent", float, 1.0, number(0.0, MOST), "a finite number, 0 or more",
        "How the entropy becomes a temperature: above 1 stays low longer.",
        example="dynatemp_range=0.5, dynatemp_exponent=2.0",
    ),
    row(
        "top_n_sigma", float, 0.0, number(0.0, MOST), "a finite number, 0 or more",
        "Keep the tokens within this many standard deviations of the largest score; 0 is off.",
        formula="keep score >= max score - n sigma, sigma over all scores left",
        paper="arXiv:2411.07641", hint="1 is usual", example="top_n_sigma=1.0",
    ),
    row(
        "top_h", float, 0.0, number(0.0, 1.0), "a number in [0, 1]",
        "Of the 100 most probable keep those that have this part of their entropy; 0 is off.",
        formula="keep the first k with sum_{i<=k} -p_i ln p_i <= top_h H, p over the 100",
        paper="arXiv:2509.02510", example="top_h=0.4",
    ),
    row(
        "top_k", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "Keep the k most probable tokens, and those that tie with the k-th; 0 is off.",
        paper="arXiv:1805.04833", formula="keep z >= the k-th largest z", example="top_k=40",
    ),
    row(
        "top_p", float, 1.0, number(0.0, 1.0, open_low=True), "a number in (0, 1]",
        "Keep the smallest set of tokens with this much probability (nucleus); 1 is off.",
        paper="arXiv:1904.09751", hint="for greedy decoding set temperature=0",
        formula="keep a token while the probability of those before it is < top_p", example="top_p=0.9",
    ),
    row(
        "min_p", float, 0.0, number(0.0, 1.0), "a number in [0, 1]",
        "Keep the tokens at least this fraction as probable as the most probable one; 0 is off.",
        paper="arXiv:2407.01082", formula="keep p >= min_p max p", example="min_p=0.05",
    ),
    row(
        "typical_p", float, 1.0, number(0.0, 1.0, open_low=True), "a number in (0, 1]",
        "Keep the tokens whose surprise is nearest to the entropy, up to this much probability; 1 is off.",
        paper="arXiv:2202.00666",
        formula="in order of |-ln p - H| until the probability reaches typical_p", example="typical_p=0.9",
    ),
    row(
        "epsilon_cutoff", float, 0.0, number(0.0, _BELOW_ONE), "a number in [0, 1)",
        "Keep the tokens with at least this probability; 0 is off.",
        paper="arXiv:2210.15191", hint="3e-4 to 9e-4", formula="keep p >= epsilon",
        example="epsilon_cutoff=5e-4",
    ),
    row(
        "eta_cutoff", float, 0.0, number(0.0, _BELOW_ONE), "a number in [0, 1)",
        "As epsilon_cutoff, with a lower bar where the distribution is flat; 0 is off.",
        paper="arXiv:2210.15191", hint="3e-4 to 2e-3",
        formula="keep p >= min(eta, sqrt(eta) exp(-H))", example="eta_cutoff=1e-3",
    ),
    row(
        "xtc_probability", float, 0.0, number(0.0, 1.0), "a number in [0, 1]",
        "How often the most probable tokens are excluded (exclude top choices); 0 is off.",
        paper="oobabooga/text-generation-webui pull request 6335",
        formula="if coin < xtc_probability: of the tokens with p >= xtc_threshold only the least probable "
        "stays",
        hint="0.5 is usual", example="xtc_probability=0.5",
    ),
    row(
        "xtc_threshold", float, 0.1, number(0.0, 0.5, open_low=True), "a number in (0, 0.5]",
        "Which tokens xtc_probability may exclude: those with at least this probability.",
        example="xtc_probability=0.5, xtc_threshold=0.15",
    ),
    row(
        "mirostat", int, 0, integer(0, 2), "0, 1 or 2",
        "Keep the surprise of the text near mirostat_tau, by version 1 or 2 of the method; 0 is off.",
        paper="arXiv:2007.14966",
        formula="2: keep -log2 p <= mu; 1: keep k = (e 2^mu / (1 - V^-e))^(1/s), s = e + 1 estimated from "
        "the 100 most probable; then mu -= mirostat_eta (surprise - mirostat_tau); mu begins at 2 tau",
        example="mirostat=2, mirostat_tau=4.0",
    ),
    row(
        "mirostat_tau", float, 5.0, number(0.0, MOST), "a finite number, 0 or more",
        "The surprise that mirostat aims at, in bits per token.", example="mirostat=2, mirostat_tau=3.0",
    ),
    row(
        "mirostat_eta", float, 0.1, number(0.0, MOST), "a finite number, 0 or more",
        "How fast mirostat follows.", example="mirostat=1, mirostat_eta=0.2",
    ),
    row(
        "min_tokens_to_keep", int, 1, integer(1, 2**31 - 1), "a whole number, 1 or more",
        "No filter leaves fewer tokens than this.", example="top_p=0.5, min_tokens_to_keep=2",
    ),
)  # fmt: skip

HISTORY = (
    row(
        "repetition_penalty", float, 1.0, number(LEAST, MOST), "a finite number above 0",
        "Above 1 makes tokens less probable that the prompt or the text already has; 1 is off.",
        paper="arXiv:1909.05858", hint="1.1 to 1.3 is usual",
        formula="score < 0 ? score * penalty : score / penalty, once for each token of the history",
        example="repetition_penalty=1.2",
    ),
    row(
        "frequency_penalty", float, 0.0, number(-MOST, MOST), "a finite number",
        "Subtracts this for each time that the token was generated; below 0 invites repetition.",
        paper="OpenAI API reference", formula="score - count * penalty (the prompt does not count)",
        example="frequency_penalty=0.3",
    ),
    row(
        "presence_penalty", float, 0.0, number(-MOST, MOST), "a finite number",
        "Subtracts this once if the token was generated at all.",
        paper="OpenAI API reference", formula="score - (count > 0) * penalty (the prompt does not count)",
        example="presence_penalty=0.5",
    ),
    row(
        "repeat_last_n", int, -1, integer(-1, 2**31 - 1), "a whole number, -1 or more",
        "How many of the last tokens the three penalties above look at; -1: all.",
        example="repetition_penalty=1.2, repeat_last_n=64",
    ),
    row(
        "dry_multiplier", float, 0.0, number(0.0, MOST), "a finite number, 0 or more",
        "Punishes a token that would make a repeated run of tokens longer (don't repeat yourself); 0 is off.",
        paper="oobabooga/text-generation-webui pull request 5677", hint="0.8 is usual",
        formula="score - multiplier * base^(n - allowed_length), n the longest run at the end that came "
        "before the same token",
        example="dry_multiplier=0.8",
    ),
    row(
        "dry_base", float, 1.75, number(1.0, MOST), "a finite number, 1 or more",
        "How much more each further token of the run costs.", example="dry_multiplier=0.8, dry_base=2.0",
    ),
    row(
        "dry_allowed_length", int, 2, integer(1, 2**31 - 1), "a whole number, 1 or more",
        "Shorter runs may be repeated.", example="dry_multiplier=0.8, dry_allowed_length=3",
    ),
    row(
        "dry_penalty_last_n", int, -1, integer(-1, 2**31 - 1), "a whole number, -1 or more",
        "How many of the last tokens DRY looks at; -1: all.",
        example="dry_multiplier=0.8, dry_penalty_last_n=256",
    ),
    row(
        "dry_sequence_breakers", str, ("\n", ":", '"', "*"), strings, "strings, none of them empty",
        "No run reaches back over a token that contains one of these.", multiple=True,
        example='dry_multiplier=0.8, dry_sequence_breakers=["\\n"]',
    ),
    row(
        "no_repeat_ngram_size", int, 0, integer(0, 2**31 - 1), "a whole number, 0 or more",
        "No run of this many tokens occurs twice, the prompt included; 0 is off.",
        paper="arXiv:1705.04304", example="no_repeat_ngram_size=3",
    ),
    row(
        "logit_bias", dict, (), biases, "{token id: number}, finite or -inf",
        "Added to the scores of these tokens; -inf bans.", json=True,
        paper="OpenAI API reference", example='logit_bias={262: 5.0, 13: -100}',
    ),
    row(
        "sequence_bias", list, (), sequence_biases, "[[[token ids], number], ...], finite or -inf",
        "Added to the score of the last token of a sequence where the text ends with the others.", json=True,
        example="sequence_bias=[[[11, 262], 2.5]]",
    ),
    row(
        "bad_words", str, (), strings, "strings, none of them empty",
        "These words cannot come: bad_words_ids of each, with and without a space before it.", multiple=True,
        example='bad_words=["dog", "cat"]',
    ),
    row(
        "bad_words_ids", list, (), sequences, "lists of token ids, none of them empty",
        "The last token of each sequence cannot come where the text ends with the others.", json=True,
        example="bad_words_ids=[[262], [11, 13]]",
    ),
    row(
        "suppress_tokens", int, (), ids, "token ids, whole numbers of 0 or more",
        "These tokens cannot come.", multiple=True, example="suppress_tokens=[262, 13]",
    ),
    row(
        "begin_suppress_tokens", int, (), ids, "token ids, whole numbers of 0 or more",
        "These tokens cannot come first.", multiple=True, example="begin_suppress_tokens=[262]",
    ),
    row(
        "forced_bos_token_id", int, None, optional(integer(0, 2**31 - 1)), "a token id",
        "After a prompt of one token this one comes.", example="forced_bos_token_id=262",
    ),
    row(
        "forced_eos_token_id", int, (), ids, "token ids, whole numbers of 0 or more",
        "The last token that max_new_tokens or max_length allows is one of these.", multiple=True,
        example="max_new_tokens=5, forced_eos_token_id=[0]",
    ),
    row(
        "forced_decoder_ids", list, (), positions, "[[position, token id], ...]",
        "At these positions, counted from the beginning of the prompt, these tokens come.", json=True,
        example="forced_decoder_ids=[[9, 262]]",
    ),
    row(
        "exponential_decay_length_penalty", list, None, decay, "[start, factor above 0]",
        "After `start` tokens the end of the text becomes more probable with each further one.", json=True,
        formula="end-of-text: score + |score| (factor^(generated - start) - 1)",
        example="exponential_decay_length_penalty=[20, 1.05]",
    ),
    row(
        "renormalize_logits", bool, False, boolean, "true or false",
        "Log-softmax after all rules: no draw changes, the scores of beams do.",
        example="renormalize_logits=True",
    ),
    row(
        "sampler_order", str, (), names_of(RULE_ORDER), "names of rules, none twice",
        "The order of the rules; it must name all that are switched on.", multiple=True,
        example='sampler_order=["top_k", "temperature"], top_k=40, temperature=1.5',
    ),
)  # fmt: skip
