"""What a run did to its model, measured with the engine on the files that a user will load.

    held_out         perplexity and bits per byte on held-out documents, before and after
    general          the same on a text of another kind, if one is named (forgetting)
    written_before   the same on what the model wrote before it was tuned, which is all that it knew
    memorised        how much of what it writes stands in the training text word for word (memorised.py):
                     from nothing, and asked with the beginnings of training documents
    samples          for reading: fixed prompts, fixed seeds

Knows no PyTorch and no loop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.cards import agreement, sample_ids
from gpt2.engine import LanguageModel, load
from gpt2.errors import InvalidRequest
from gpt2.protocols import Completion
from gpt2.train.data import Split
from gpt2.train.memorised import memorised

MEASURED_TOKENS = 30_000
"""Of the held-out part and of the general text at most: a standard error of about one percent of the loss."""
SEARCHED_TOKENS = 4_000_000
"""Of the training text at most, for the search of what was memorised: 64 MB of memory."""
SAMPLES, SAMPLE_TOKENS, BEGINNING = 8, 200, 16

Say = Callable[[str], None]
Ids = Sequence[int]


def measure_after(
    folder: Path,
    *,
    before: Path | None,
    train: Split,
    held_out: Split | None,
    general: str | None,
    prompts: Sequence[str],
    seed: int,
    say: Say,
) -> dict[str, Any]:
    """The facts for a card: "quality", "memorised" and "samples". Raises what loading raises."""
    after = load(folder)
    source = None if before is None else load(before)
    models = {"model": after} if source is None else {"source": source, "model": after}
    quality: dict[str, Any] = {}
    if held_out is not None and held_out.tokens:
        say("measuring on what was held out")
        texts = documents(held_out, MEASURED_TOKENS)
        quality["held_out"] = {"tokens": sum(map(len, texts)), **each(models, texts)}
    if general is not None:
        say(f"measuring on {Path(general).name}")
        texts = [after.tokenizer.encode(read_text(general))[:MEASURED_TOKENS]]
        quality["general"] = {"sha256": _hash(general), "tokens": len(texts[0]), **each(models, texts)}
    if source is not None:
        say("measuring on what the model wrote before")
        written = sample_ids(source)
        quality["written_before"] = {
            "tokens": sum(map(len, written)),
            **each(models, [ids[1:] for ids in written]),
            **asdict(agreement(source, after, written)),
        }
    say("looking for memorised text")
    return {
        "quality": quality,
        "memorised": {name: memory_of(lm, train, seed) for name, lm in models.items()},
        "samples": samples(after, prompts, seed),
    }


def documents(split: Split, limit: int) -> list[list[int]]:
    """Documents evenly out of all, of about `limit` tokens together; the last one may be cut."""
    out: list[list[int]] = []
    left = limit
    step = max(1, round(split.tokens / max(limit, 1)))
    for i in range(0, len(split), step):
        ids = split.document(i)[:left].tolist()
        if ids:
            out.append(ids)
            left -= len(ids)
        if left <= 0:
            break
    return out


def each(models: dict[str, LanguageModel], texts: Sequence[Ids]) -> dict[str, Any]:
    """{"perplexity": {"source": ..., "model": ...}, "bits_per_byte": {...}} of the texts together."""
    perplexity, bits = {}, {}
    for name, lm in models.items():
        scores = [lm.score(ids, stride=max(1, lm.config.n_positions // 2)) for ids in texts]
        total = math.fsum(score.total for score in scores)
        count = sum(len(score.tokens) for score in scores)
        size = sum(len(lm.tokenizer.decode_bytes(list(ids))) for ids in texts)
        perplexity[name] = math.exp(min(700.0, -total / max(count, 1)))
        bits[name] = -total / math.log(2) / max(size, 1)
    return {"perplexity": perplexity, "bits_per_byte": bits}


def memory_of(lm: LanguageModel, train: Split, seed: int) -> dict[str, Any]:
    """What is verbatim in texts written from nothing, and after the beginnings of training documents."""
    training = train.read(0, min(train.tokens, SEARCHED_TOKENS))
    beginning = min(BEGINNING, lm.config.n_positions // 4)
    count = max(1, min(SAMPLE_TOKENS, lm.config.n_positions - beginning - 1))
    chosen = np.linspace(0, len(train) - 1, SAMPLES).astype(int).tolist()
    beginnings = [train.document(i)[:beginning].tolist() or [train.eos_id] for i in chosen]
    out = {}
    for name, prompts in (("unprompted", [[train.eos_id]] * SAMPLES), ("from_beginnings", beginnings)):
        texts = [_generate(lm, ids, count, seed + i) for i, ids in enumerate(prompts)]
        found = memorised(texts, training)
        out[name] = {
            "tokens": found.tokens, "span": found.span, "share": found.share, "longest": found.longest,
        }  # fmt: skip
    return {"searched_tokens": len(training), **out}


def samples(lm: LanguageModel, prompts: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One continuation of each prompt, with the preset for stories."""
    count = max(1, min(120, lm.config.n_positions // 2))
    out = []
    for prompt in prompts:
        made = lm.generate(prompt, preset="story", max_new_tokens=count, seed=seed, truncate="left")
        out += [{"prompt": prompt, "seed": seed, "text": one.text} for one in as_list(made)]
    return out


def as_list(made: Completion | list[Completion]) -> list[Completion]:
    return made if isinstance(made, list) else [made]


def _generate(lm: LanguageModel, ids: list[int], count: int, seed: int) -> list[int]:
    """Tokens as the model's own distribution has them, whatever they are."""
    made = lm.generate(ids, max_new_tokens=count, seed=seed, temperature=1.0, ignore_eos=True)
    return [token for one in as_list(made) for token in one.tokens]


def summary(facts: dict[str, Any]) -> list[str]:
    """What was measured, in lines for people."""
    names = {
        "held_out": "held-out text", "general": "general text", "written_before": "what it wrote before",
    }  # fmt: skip
    lines = []
    for key, name in names.items():
        if (one := facts["quality"].get(key)) is None:
            continue
        p = one["perplexity"]
        change = (
            f", from {p['source']:,.2f}: {100 * (p['model'] / p['source'] - 1):+.1f} %"
            if "source" in p
            else ""
        )
        lines.append(f"perplexity on {name:<21} {p['model']:,.2f}{change}")
    for key, name in (
        ("unprompted", "from nothing"),
        ("from_beginnings", "from beginnings of the training text"),
    ):
        found = {which: m[key] for which, m in facts["memorised"].items()}
        was = f" (before: {found['source']['share']:.1%})" if "source" in found else ""
        lines.append(
            f"memorised, {name}: {found['model']['share']:.1%} of its tokens are in stretches of "
            f"{found['model']['span']} or more{was}; the longest is {found['model']['longest']}"
        )
    return lines


def read_text(path: str) -> str:
    """The general text. Raises InvalidRequest where it cannot be measured on."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidRequest("the general text cannot be read", where=path, got=error.strerror) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the general text is not UTF-8", where=path) from None
    if not text.strip():
        raise InvalidRequest("the general text is empty", where=path)
    return text


def _hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
