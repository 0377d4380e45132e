"""Measure a model against the one that it was made from: on a text, and on tokens that the source wrote.

With a text: bits per byte of both. Always: how far the distributions over the next token are apart, along
tokens sampled from the source with a fixed seed, which needs no text and no tokenizer. Takes any two
LanguageModels; knows no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpt2.engine import LanguageModel

SAMPLES, TOKENS, SEED = 8, 128, 0
"""What sample_ids draws when nothing else is said: a thousand tokens take seconds on a 1.5B model."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two models' distributions over the next token, compared at each of `tokens` positions."""

    tokens: int
    mean_kl_bits: float
    """Of the source's distribution from the model's, in bits: what using the model costs, per token of the
    source's own text."""
    max_logit_difference: float
    """The largest |difference| of a logit, after the mean over the vocabulary is taken from both: a constant
    changes no probability."""
    same_top_token: float
    """Share of the positions at which both have the same most probable token."""


def sample_ids(source: LanguageModel, *, samples: int = SAMPLES, tokens: int = TOKENS) -> list[list[int]]:
    """Token ids that `source` writes from its start token, which is the first id: alternatives of seed 0."""
    tokens = min(tokens, source.config.n_positions - 1)
    start = source.config.eos_token_id
    first = start[0] if isinstance(start, tuple) else start
    begin = first if first is not None and 0 <= first < source.config.vocab_size else 0
    written = source.generate([[begin]], n=samples, max_new_tokens=tokens, seed=SEED, ignore_eos=True)
    return [[begin, *completion.tokens] for completion in written]  # type: ignore[union-attr]


def agreement(source: LanguageModel, model: LanguageModel, texts: Sequence[Sequence[int]]) -> Agreement:
    """Compare the two along these token ids, each list from its own start."""
    count, same, divergence, largest = 0, 0, 0.0, 0.0
    for ids in texts:
        ours, theirs = source.logits(ids).astype(np.float64), model.logits(ids).astype(np.float64)
        ours -= ours.mean(axis=1, keepdims=True)
        theirs -= theirs.mean(axis=1, keepdims=True)
        largest = max(largest, float(np.abs(ours - theirs).max()))
        same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        p, q = _log_softmax(ours), _log_softmax(theirs)
        divergence += float((np.exp(p) * (p - q)).sum())
        count += len(ids)
    return Agreement(
        tokens=count,
        mean_kl_bits=divergence / np.log(2) / count,
        max_logit_difference=largest,
        same_top_token=same / count,
    )


def _log_softmax(rows: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))


def compare(
    source: LanguageModel,
    model: LanguageModel,
    *,
    text: str | None = None,
    samples: int = SAMPLES,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """What a card says of the quality of `model`. A long `text` is scored in windows that move by half."""
    quality: dict[str, Any] = {}
    if text is not None:
        raw = text.encode("utf-8")
        stride = max(1, source.config.n_positions // 2)
        progress(f"measuring the source on {len(raw):,} bytes")
        before = source.score(text, stride=stride).bits_per_byte
        progress(f"measuring the model on {len(raw):,} bytes")
        after = model.score(text, stride=stride).bits_per_byte
        quality["text"] = {
            "sha256": hashlib.sha256(raw).hexdigest(),
            "bytes": len(raw),
            "stride": stride,
            "bits_per_byte": {"source": before, "model": after},
            "increase_percent": 100 * (after / before - 1) if before else 0.0,
        }
    progress("comparing with the source on tokens that it samples")
    texts = sample_ids(source, samples=samples)
    quality["on_samples_of_the_source"] = {
        "samples": len(texts),
        "seed": SEED,
        **asdict(agreement(source, model, texts)),
    }
    return quality
