"""Text from the model that is being trained, to see it learn: fixed prompts, a fixed seed, no cache.

How to write text fast is the engine's business; this computes the whole window for each token, in the model
as it is. It draws from its own generator, so a run with samples has the bits of one without.
"""

from __future__ import annotations

import torch

from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

TOKENS, TEMPERATURE, TOP_K = 40, 0.8, 40


@torch.no_grad()
def sample(model: GPT2, ids: list[int], seed: int, count: int = TOKENS) -> list[int]:
    """`count` ids that follow `ids` (at least one), by top-k sampling at temperature 0.8."""
    training = model.training
    model.eval()
    device = model.wte.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    out = list(ids)
    for _ in range(count):
        window = torch.tensor([out[-model.config.n_positions :]], device=device)  # [1, T]
        logits = torch.nn.functional.linear(model.hidden(window)[0, -1], model.head)  # [V]
        best, which = (logits.float() / TEMPERATURE).topk(min(TOP_K, logits.numel()))
        out.append(int(which[torch.multinomial(best.softmax(-1), 1, generator=generator)]))
    model.train(training)
    return out[len(ids) :]


def sampled_texts(model: GPT2, tokenizer: Tokenizer, prompts: tuple[str, ...], seed: int) -> list[str]:
    """Each prompt with what follows it; an empty one follows the end-of-text token."""
    start = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    texts = []
    for prompt in prompts:
        ids = start + list(tokenizer.encode(prompt))
        texts.append(prompt + tokenizer.decode(sample(model, ids or [0], seed)))
    return texts
