"""Several prompts and several answers in one call, and why that is safe: nobody's answer depends on the
company."""

import gpt2

lm = gpt2.load()
prompts = ["The old house on the hill", "She opened the letter and", "It was raining when"]
options = {"max_new_tokens": 20, "temperature": 0.8, "seed": 7}

together = lm.generate(prompts, **options)
for prompt, completion in zip(prompts, together, strict=True):
    print(f"{prompt}{completion.text}\n")

alone = [lm.generate(prompt, **options) for prompt in prompts]
if [c.tokens for c in alone] != [c.tokens for c in together]:
    raise SystemExit("a batch changed an answer; that is a bug")
print("alone and together: the same tokens")
