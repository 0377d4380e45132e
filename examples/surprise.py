"""Which of two sentences does the model expect, and which word of the other one surprised it?"""

import math

import gpt2

lm = gpt2.load()
for sentence in ("He sat down in the chair.", "He sat down in the chain."):
    score = lm.score(sentence)
    worst = min(range(len(score.tokens)), key=lambda i: score.logprobs[i])
    bits = -score.logprobs[worst] / math.log(2)
    print(
        f"{sentence} {score.bits_per_byte:.2f} bits per byte, the most on {score.texts[worst]!r}: {bits:.1f}"
    )
