"""Autocomplete: what may follow a text that ends within a word, and the same word healed in one text."""

from __future__ import annotations

import gpt2


def main() -> None:
    lm = gpt2.load()
    prefix = "The little gir"
    for one in lm.suggest(prefix, n=3):
        print(f"{one.logprob:7.2f}  {prefix}|{one.text}")
    healed = lm.generate(prefix, token_healing=True, max_new_tokens=12, seed=1)
    print(prefix + healed.text)


if __name__ == "__main__":
    main()
