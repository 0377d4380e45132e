"""How a text is to be continued: one frozen object that travels whole, from a flag down to the sampler.

Its values are checked here, by the rows of options.py; what the sampler does with them is in sampling.py. It
knows neither models nor vocabularies, so that ids are checked against a vocabulary only by the engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from gpt2.decoding.options import search, transformers_names
from gpt2.decoding.options.constraints import Word
from gpt2.decoding.options.rules import RULE_ORDER
from gpt2.decoding.options.table import RULES
from gpt2.decoding.options.values import shown
from gpt2.errors import InvalidRequest, UnknownOption

Truncate: TypeAlias = Literal["left", "right", "middle"]
Overflow: TypeAlias = Literal["stop", "slide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The options of one request. Names are those of transformers' `generate`.

    Raises InvalidRequest for a value outside its range or for fields that contradict each other.
    """

    max_new_tokens: int = 128
    """At most this many tokens are generated."""
    min_new_tokens: int = 0
    """The end-of-text token and the stop token ids cannot come before this many tokens."""
    max_length: int | None = None
    """At most this many tokens with the prompt; None: max_new_tokens alone counts."""
    min_length: int = 0
    """The end-of-text token and the stop token ids cannot come before this many tokens with the prompt."""
    max_time: float | None = None
    """Seconds after which no token is begun."""
    temperature: float = 1.0
    """Divides the logits: below 1 sharpens, above 1 flattens; 0 is greedy, ties to the lowest id."""
    dynatemp_range: float = 0.0
    """The temperature follows the entropy, within this range; 0 is off (arXiv:2309.02772)."""
    dynatemp_exponent: float = 1.0
    """How the entropy becomes a temperature."""
    top_n_sigma: float = 0.0
    """Keep the tokens within this many standard deviations of the largest score (arXiv:2411.07641)."""
    top_h: float = 0.0
    """Of the 100 most probable keep those that have this part of their entropy (arXiv:2509.02510)."""
    top_k: int = 0
    """Keep the k most probable tokens, and those that tie with the k-th; 0 is off (arXiv:1805.04833)."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability (nucleus; arXiv:1904.09751)."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the most probable one (arXiv:2407.01082)."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is nearest to the entropy, up to this probability (arXiv:2202.00666)."""
    epsilon_cutoff: float = 0.0
    """Keep the tokens with at least this probability (arXiv:2210.15191)."""
    eta_cutoff: float = 0.0
    """As epsilon_cutoff, with a lower bar where the distribution is flat (arXiv:2210.15191)."""
    xtc_probability: float = 0.0
    """How often the most probable tokens are excluded."""
    xtc_threshold: float = 0.1
    """Which tokens xtc_probability may exclude: those with at least this probability."""
    mirostat: int = 0
    """Keep the surprise of the text near mirostat_tau, by version 1 or 2; 0 is off (arXiv:2007.14966)."""
    mirostat_tau: float = 5.0
    """The surprise that mirostat aims at, in bits per token."""
    mirostat_eta: float = 0.1
    """How fast mirostat follows."""
    min_tokens_to_keep: int = 1
    """No filter leaves fewer tokens than this."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens less probable that the prompt or the text already has (arXiv:1909.05858)."""
    frequency_penalty: float = 0.0
    """Subtracted for each time that the token was generated."""
    presence_penalty: float = 0.0
    """Subtracted once if the token was generated."""
    repeat_last_n: int = -1
    """How many of the last tokens these three penalties look at; -1: all."""
    dry_multiplier: float = 0.0
    """Punishes the token that would make a repeated run of tokens longer; 0 is off."""
    dry_base: float = 1.75
    """How much more each further token of the run costs."""
    dry_allowed_length: int = 2
    """Shorter runs may be repeated."""
    dry_penalty_last_n: int = -1
    """How many of the last tokens DRY looks at; -1: all."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """No run reaches back over a token that contains one of these."""
    no_repeat_ngram_size: int = 0
    """No run of this many tokens occurs twice, the prompt included; 0 is off (arXiv:1705.04304)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the scores of these tokens. May be given as {id: bias}."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """Added to the score of the last token where the text ends with the others. May be given as a dict."""
    bad_words: tuple[str, ...] = ()
    """Words that cannot come, with or without a space before them."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of ids that cannot come."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that cannot come."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that cannot come first."""
    forced_bos_token_id: int | None = None
    """What comes after a prompt of one token."""
    forced_eos_token_id: tuple[int, ...] = ()
    """One of these is the last token that max_new_tokens or max_length allows."""
    forced_decoder_ids: tuple[tuple[int, int], ...] = ()
    """(position, id): what comes at this position of the whole text."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): the end becomes more probable with each token after `start`."""
    renormalize_logits: bool = False
    """Log-softmax after all rules, for the scores of beams."""
    sampler_order: tuple[str, ...] = ()
    """The rules in the order in which they are applied; empty: RULE_ORDER."""
    stop: tuple[str, ...] = ()
    """Stop before the first of these strings. One string may be given as such."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop at the first of these tokens, beside the end-of-text token."""
    seed: int | None = None
    """The same seed gives the same text; None: chosen at random by the engine and reported."""
    logprobs: int | None = None
    """Report the model's log-probability of each token, and of this many most probable ones; None: no."""
    n: int = 1
    """How many alternatives to generate; the k-th is the same whatever n is."""
    num_return_sequences: int | None = None
    """Another name of n; read n."""
    best_of: int | None = None
    """Draw this many alternatives and keep the n whose tokens are on average the most probable."""
    prompt_lookup_num_tokens: int | None = None
    """Guess up to this many tokens from what followed the last ones earlier in the text, and check them in
    one step. The text is the same, sooner where it repeats; None: no."""
    max_matching_ngram_size: int | None = None
    """So many tokens are compared for that, or fewer where so many have not occurred; None: 2."""
    do_sample: bool | None = None
    """False is greedy, as temperature 0 is; beams draw only if it is true. None: by temperature, for beams
    no."""
    num_beams: int = 1
    """Beam search: follow this many texts side by side, return the n with the best score."""
    num_beam_groups: int = 1
    """Split the beams into groups that are made to differ (arXiv:1610.02424)."""
    diversity_penalty: float = 0.0
    """What a group's token costs for each beam of the groups before that has just taken it
    (arXiv:1610.02424)."""
    length_penalty: float = 1.0
    """A beam's score is its log-probability / length ** length_penalty (arXiv:1609.08144)."""
    early_stopping: bool | Literal["never"] = False
    """When beams end: True, at num_beams complete texts; False, when a better one is unlikely; "never", when
    it is impossible."""
    force_words_ids: tuple[Word, ...] = ()
    """Words that must occur (beams only), each as its ids, or as several lists of which one will do
    (arXiv:1804.06609)."""
    constraints: tuple[Word, ...] = ()
    """Another form of force_words_ids; read that (arXiv:1804.06609)."""
    penalty_alpha: float | None = None
    """Contrastive search among the top_k tokens (arXiv:2202.06417)."""
    dola_layers: Literal["low", "high"] | tuple[int, ...] | None = None
    """Contrast the last layer with the one among these that differs most (arXiv:2309.03883)."""
    guidance_scale: float | None = None
    """Strengthen what sets the prompt apart from the negative prompt; 1 is off (arXiv:2306.17806)."""
    negative_prompt: str | None = None
    """The prompt that guidance_scale leads away from; None: the last token of the prompt
    (arXiv:2306.17806)."""
    negative_prompt_ids: tuple[int, ...] | None = None
    """The negative prompt as token ids (arXiv:2306.17806)."""
    truncate: Truncate | None = None
    """Where to cut a prompt that does not fit the window; None: such a prompt is an error."""
    overflow: Overflow = "stop"
    """When the window is full: stop, or slide it."""
    ignore_eos: bool = False
    """Go on after the end-of-text token."""
    allow_special: bool = False
    """Special tokens written in the prompt act as such; otherwise they are plain text."""
    json_schema: str | None = None
    """The text is JSON that this schema accepts. A dict, or a class of pydantic's, may be given as such."""
    regex: str | None = None
    """The whole text matches this expression."""
    choice: tuple[str, ...] = ()
    """The text is one of these strings."""
    grammar: str | None = None
    """The text is one that this Lark grammar derives from `start`."""
    token_healing: bool = False
    """The last tokens of the prompt are chosen anew, among those that begin with its last bytes."""

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if value is not rule.spec.default:
                object.__setattr__(self, name, rule.checked(value))
        self._require_room()
        decays = self.exponential_decay_length_penalty is not None
        if decays and self.ignore_eos and not self.stop_token_ids:
            raise contradiction(
                ignore_eos=True,
                exponential_decay_length_penalty=self.exponential_decay_length_penalty,
                likely="the penalty leads to the end-of-text token, which is to be ignored",
            )
        for name, value in search.settled(self).items():
            object.__setattr__(self, name, value)
        missing = [name for name in self._active() if self.sampler_order and name not in self.sampler_order]
        if missing:
            raise InvalidRequest(
                f"sampler_order and {missing[0]} contradict each other",
                got=f"{missing[0]}={shown(getattr(self, missing[0]))}, an order without it",
                expected="every rule that is switched on, in its place",
                hint=f"add {missing[0]!r} to sampler_order",
            )
        search.check(self)

    def _require_room(self) -> None:
        for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            low, high = getattr(self, least), getattr(self, most)
            if high is not None and low > high:
                raise InvalidRequest(
                    f"{least} and {most} contradict each other",
                    got=f"{least}={low}, {most}={high}",
                    expected=f"{least} <= {most}",
                    hint=f"{most}={low}",
                )

    def _active(self) -> list[str]:
        """The rules that are switched on, in the default order; bad_words counts as bad_words_ids."""
        off = {name: RULES[name].spec.default for name in RULE_ORDER}
        active = {name for name in RULE_ORDER if getattr(self, name) != off[name]}
        active |= {"temperature"} if self.dynatemp_range > 0 else set()
        active |= {"bad_words_ids"} if self.bad_words else set()
        active -= {"temperature"} if self.temperature == 0.0 else set()
        return [name for name in RULE_ORDER if name in active]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are switched on, in the order in which they are applied."""
        active = self._active()
        return tuple(name for name in self.sampler_order or RULE_ORDER if name in active)

    @property
    def greedy(self) -> bool:
        """True if no draw is made: the same text whatever the seed."""
        if self.num_beams > 1:
            return self.do_sample is not True
        return self.temperature == 0.0 or bool(self.penalty_alpha)

    def replace(self, **options: Any) -> SamplingParams:
        """These params with some fields changed; checks them as the constructor does."""
        options = transformers_names.ours(options, RULES)
        _require_known(options)
        return dataclasses.replace(self, **options)

    @classmethod
    def from_options(cls, preset: str | None = None, **options: Any) -> SamplingParams:
        """From options by name, on top of a preset.

        Raises UnknownOption for a name that no field has, InvalidRequest for an unknown preset, for a wrong
        value, and for options that make each other void.
        """
        options = transformers_names.ours(options, RULES)
        _require_known(options)
        merged = {**(preset_fields(preset) if preset is not None else {}), **options}
        if options.get("max_length") is not None and "max_new_tokens" not in options:
            merged["max_new_tokens"] = options["max_length"]  # so that max_length is the limit
        _refuse_idle(merged, options)
        if (reason := _why_nothing_is_drawn(merged, options)) is not None:
            used = ("top_k",) if options.get("penalty_alpha") else ()
            _refuse_void(options, reason, used)
            # What remains is the preset's way of drawing, which the caller has replaced.
            unused = {*_DRAW_ONLY} - {*used}
            if "temperature" not in options and reason[0] != "temperature":
                unused.add("temperature")
            merged = {name: value for name, value in merged.items() if name not in unused}
        return cls(**merged)


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "story": MappingProxyType(
            {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.05, "max_new_tokens": 400}
        ),
        "chat": MappingProxyType(
            {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "stop": ("\nUser:", "\nHuman:")}
        ),
        "code": MappingProxyType({"temperature": 0.2, "top_p": 0.95, "max_new_tokens": 256}),
        "exact": MappingProxyType({"temperature": 0.0}),
    }
)
"""Named sets of options. story: varied prose that does not circle; chat: one turn, up to where the other
speaker begins; code: near the most probable, since one odd token breaks it; exact: greedy."""

_DRAW_ONLY: Final = (
    "dynatemp_range",
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
"""Options that say how to draw; with temperature 0 nothing is drawn."""

_PENALTIES: Final = ("repetition_penalty", "frequency_penalty", "presence_penalty")

_SERVES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "dynatemp_exponent": ("dynatemp_range",),
        "xtc_threshold": ("xtc_probability",),
        "mirostat_tau": ("mirostat",),
        "mirostat_eta": ("mirostat",),
        "repeat_last_n": _PENALTIES,
        "dry_base": ("dry_multiplier",),
        "dry_allowed_length": ("dry_multiplier",),
        "dry_penalty_last_n": ("dry_multiplier",),
        "dry_sequence_breakers": ("dry_multiplier",),
    }
)
"""Options that do nothing unless one of these others is switched on."""


def preset_fields(preset: str) -> dict[str, Any]:
    """The fields that a preset sets. Raises InvalidRequest for an unknown name and offers the nearest one."""
    if preset not in PRESETS:
        near = UnknownOption.named(preset, PRESETS).hint
        raise InvalidRequest("preset", got=shown(preset), expected=" | ".join(PRESETS), hint=near)
    return dict(PRESETS[preset])


def _require_known(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in RULES:
            if name in transformers_names.ADVICE:
                raise UnknownOption(f"unknown option {name!r}", hint=transformers_names.ADVICE[name])
            raise UnknownOption.named(name, RULES)


def _why_nothing_is_drawn(merged: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The option that makes the text the same whatever the seed, and its value; None where draws are made."""
    if options.get("do_sample") is False:
        return "do_sample", False
    if options.get("penalty_alpha"):
        return "penalty_alpha", options["penalty_alpha"]
    if options.get("num_beams", 1) != 1 and not options.get("do_sample"):
        return "num_beams", options["num_beams"]
    return ("temperature", 0) if merged.get("temperature") == 0 else None


def _refuse_void(options: Mapping[str, Any], reason: tuple[str, Any], used: tuple[str, ...]) -> None:
    """Options about the draw, asked for by name although nothing is drawn."""
    why, value = reason
    for name in _DRAW_ONLY:
        if name in options and name not in used and options[name] != RULES[name].spec.default:
            raise InvalidRequest(
                f"{why} and {name} contradict each other",
                got=f"{why}={shown(value)}, {name}={shown(options[name])}",
                expected="one of them",
                likely=f"{why}={shown(value)} draws nothing, so that {name} has no effect",
                hint=f"leave out {name}, or "
                + ("set a temperature above 0" if why == "temperature" else f"leave out {why}"),
            )


def _refuse_idle(merged: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Options, asked for by name, that serve a rule that is off."""

    def on(name: str) -> bool:
        return bool(merged.get(name, RULES[name].spec.default) != RULES[name].spec.default)

    for name, masters in _SERVES.items():
        if name in options and on(name) and not any(map(on, masters)):
            raise InvalidRequest(
                f"{name} has no effect without {' or '.join(masters)}",
                got=f"{name}={shown(options[name])}",
                expected=f"{' or '.join(masters)}, too",
                hint=f"leave out {name}, or set {masters[0]}",
            )


def contradiction(*, likely: str, **options: Any) -> InvalidRequest:
    """The error for two options that cannot both be meant; it names both."""
    names = list(options)
    return InvalidRequest(
        f"{' and '.join(names)} contradict each other",
        got=", ".join(f"{name}={shown(value)}" for name, value in options.items()),
        expected="one of them",
        likely=likely,
        hint=f"leave out {names[-1]}",
    )


def fields_table() -> list[tuple[str, str, str, str, str, str]]:
    """(name, type, default, range, meaning, paper) of every field, as text, for documentation."""
    rows = []
    for rule in RULES.values():
        spec = rule.spec
        type_name = f"{spec.type.__name__}, several" if spec.multiple else spec.type.__name__
        type_name = "JSON" if spec.json else type_name
        default = "none" if spec.default in (None, ()) else str(spec.default)
        rows.append((spec.name, type_name, default, spec.range, spec.help, spec.paper or ""))
    return rows
