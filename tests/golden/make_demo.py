"""Makes demo.json: what transformers computes with the bundled model. Run it again when the model changes.

    python tests/golden/make_demo.py

For each prompt: the ids (transformers' own tokenizer), the 8 largest logits after the last one, and 24
greedy tokens. float32 arithmetic on the file's bfloat16 weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

import gpt2

PROMPTS = ["Once upon a time", "The old gentleman", "\u201cMy dear,\u201d said she, \u201cI", "It was a dark"]


def main() -> None:
    folder = Path(gpt2.__file__).parent / "assets" / "demo"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    records = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            best = model(ids).logits[0, -1].topk(8)
            greedy = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=24,
                pad_token_id=model.config.eos_token_id,
            )
        records.append(
            {
                "prompt": prompt,
                "ids": ids[0].tolist(),
                "top_ids": best.indices.tolist(),
                "top_logits": [round(float(x), 5) for x in best.values],
                "greedy": greedy[0, ids.shape[1] :].tolist(),
            }
        )
    made = {"transformers": transformers.__version__, "torch": torch.__version__, "records": records}
    Path(__file__).with_name("demo.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
