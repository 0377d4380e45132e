"""Find the sentence that is nearest to a question, by the vectors of the model's last layer."""

import numpy as np

import gpt2

sentences = [
    "The ship sailed out of the harbour at dawn.",
    "She poured the tea and cut the bread.",
    "The horses were tired after the long road.",
]
question = "They had supper at the kitchen table."

lm = gpt2.load()
vectors = lm.embed([*sentences, question], pooling="mean")  # [B, C]
vectors = vectors - vectors[:-1].mean(axis=0)  # what all sentences share says nothing about any of them
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
similarity = vectors[:-1] @ vectors[-1]
for i in np.argsort(-similarity):
    print(f"{similarity[i]:+.2f}  {sentences[i]}")
