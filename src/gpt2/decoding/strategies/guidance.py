"""Classifier-free guidance (arXiv:2306.17806): the text follows its prompt, and away from a negative one.

A second branch reads the negative prompt and then the same tokens. With log-probabilities p of the text and q
of that branch, tokens are chosen from  q + guidance_scale * (p - q)  by the rules of the request: 1 is the
model alone, larger strengthens what the prompt adds, 0 is the negative prompt alone.

Oracle: transformers 5, guidance_scale and negative_prompt_ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from gpt2.decoding.params import SamplingParams
from gpt2.decoding.strategies.ending import Stream, last_row, log_softmax, one_by_one
from gpt2.decoding.tree import Answer, Ask, Strategy, Tree

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]


def guidance(tree: Tree, prompt: Sequence[int], params: SamplingParams, ends: frozenset[int]) -> Strategy:
    """params.negative_prompt is in params.negative_prompt_ids by now, if there is one; without either, the
    negative prompt is the last token of the prompt."""
    scale = params.guidance_scale or 0.0
    negative = params.negative_prompt_ids or prompt[-1:]

    def scores(answers: list[Answer]) -> Floats:
        own, other = (log_softmax(last_row(answer)) for answer in answers)
        return cast("Floats", other + np.float32(scale) * (own - other))

    return one_by_one(tree, params, ends, [prompt, negative], Stream(Ask("logits"), scores))
