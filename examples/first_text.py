"""Text as it is made: load the bundled model and print each piece as it comes."""

import gpt2

lm = gpt2.load()
for chunk in lm.stream("Once upon a time", preset="story", max_new_tokens=60, seed=1):
    print(chunk.text, end="", flush=True)
print()
