"""Compare prompt templates by score: under which one are good replies more probable?

Each example is a conversation that ends with the reply one wants. It is written with each template as a
session would write it, and the reply's tokens are scored after it; markup is not scored, since templates
differ in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.decoding import Message, Template, as_template
from gpt2.errors import InvalidRequest
from gpt2.protocols import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateScore:
    """One template on all examples."""

    template: Template
    bits: tuple[float, ...]
    """Of the reply of each example; fewer are better."""
    bits_per_byte: float
    """All bits over all bytes of the replies."""
    wins: int
    """Examples with fewer bits than under the first template."""
    losses: int
    p: float
    """How probable so uneven a count of wins and losses is where both are equally good (sign test,
    two-sided); 1.0 for the first template itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    scores: tuple[TemplateScore, ...]
    """In the order in which the templates were given."""

    @property
    def best(self) -> TemplateScore:
        """The one with the fewest bits; the first of equals."""
        return min(self.scores, key=lambda score: score.bits_per_byte)

    def table(self) -> str:
        """For people, best first."""
        lines = [f"{'template':<16} {'bits/byte':>9}  {'wins':>5} {'losses':>6} {'p':>7}"]
        for score in sorted(self.scores, key=lambda score: score.bits_per_byte):
            first = score is self.scores[0]
            counts = (
                f"{'-':>5} {'-':>6} {'-':>7}"
                if first
                else (f"{score.wins:>5} {score.losses:>6} {score.p:>7.3f}")
            )
            lines.append(f"{score.template.id:<16} {score.bits_per_byte:>9.3f}  {counts}")
        return "\n".join(lines)


def compare_templates(
    model: LanguageModel,
    examples: Sequence[Sequence[Message]],
    templates: Sequence[Template | str | os.PathLike[str]],
) -> Comparison:
    """Score the last message of each example, [(role, text), ...], under each template.

    The first template is what the others are compared with. Where a form has a space before the text
    ("Assistant: {text}"), it belongs to the reply, as GPT-2 writes it; bytes are those of the text alone.

    Raises InvalidRequest for no templates, no examples, one that does not end with the template's replying
    role, or an empty reply; PromptTooLong for one that does not fit the window.
    """
    chosen = [as_template(template) for template in templates]
    if not chosen or not examples:
        raise InvalidRequest(
            "nothing to compare",
            got=f"{len(chosen)} templates, {len(examples)} examples",
            expected="at least one",
        )
    size = 0
    for at, example in enumerate(examples):
        if not example or not example[-1][1]:
            raise InvalidRequest(f"examples[{at}]", got="no reply at its end", expected="[(role, text), ...]")
        size += len(example[-1][1].encode("utf-8", "surrogatepass"))
    bits = [tuple(_bits(model, template, example) for example in examples) for template in chosen]
    return Comparison(
        scores=tuple(
            _score(template, mine, bits[0], size) for template, mine in zip(chosen, bits, strict=True)
        )
    )


def _bits(model: LanguageModel, template: Template, example: Sequence[Message]) -> float:
    *before, (role, text) = example
    if role != template.reply:
        raise InvalidRequest(
            "the last message", where=f"template {template.id}", got=repr(role), expected=repr(template.reply)
        )
    head = template.roles[role].partition("{text}")[0].removeprefix(template.opening)
    prompt = model.tokenizer.encode(template.render(before))
    reply = model.tokenizer.encode(head + text)
    scored = model.score([*prompt, *reply])  # type: ignore[arg-type]
    return -math.fsum(scored.logprobs[len(prompt) :]) / math.log(2)


def _score(template: Template, bits: tuple[float, ...], base: tuple[float, ...], size: int) -> TemplateScore:
    wins = sum(mine < theirs for mine, theirs in zip(bits, base, strict=True))
    losses = sum(mine > theirs for mine, theirs in zip(bits, base, strict=True))
    return TemplateScore(
        template=template, bits=bits, bits_per_byte=math.fsum(bits) / size, wins=wins, losses=losses,
        p=sign_test(wins, losses),
    )  # fmt: skip


def sign_test(wins: int, losses: int) -> float:
    """Two-sided: the probability of a count at least this uneven in fair coin tosses."""
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2.0 * tail / float(1 << n))
