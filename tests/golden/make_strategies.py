"""Makes strategies_<major>.json: what transformers generates with the bundled model, strategy by strategy.

    python tests/golden/make_strategies.py [STRATEGY ...]

under transformers 4.49.0 (the last releases that have diverse and constrained beam search, contrastive search
and DoLa in the core are 4.5x; `pip install transformers==4.49.0` into an environment of its own) writes those
to strategies_4.json; under transformers 5 it writes beam search and guidance to strategies_5.json.

float32 arithmetic on the file's bfloat16 weights. Each case is generated again in float64; where that gives
other tokens, two tokens were so near that rounding decides, and the case is not kept but counted, by its
strategy, under "near_ties".
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

ASSETS = Path(__file__).resolve().parents[2] / "src" / "gpt2" / "assets" / "demo"

OPENINGS = (
    "Once upon a time", "The old gentleman", "It was a dark", "My dear sir,", "She looked at",
    "In the morning", "He had never", "The captain of the", "When the door", "At the end of the",
    "There was a", "I do not know", "The two men", "After a long", "Upon the table", "The young lady",
    "They walked", "Nothing could be", "The house stood", "His father", "A letter from", "The room was",
    "On the road to", "What is the", "The night", "You must not", "By the time", "Her eyes",
    "The horse", "It is a truth", "Down by the river", "The first thing", "Three days later",
    "With a sigh", "The wind", "Good morning,", "All the", "The king", "If I were", "The poor woman",
    "Some of the", "Before the fire", "A great many", "The boy", "No one", "The carriage",
    "Every evening", "The doctor said", "As soon as", "The ship", "For a moment", "The garden",
    "Two or three", "So they", "The little girl", "And yet", "The sea", "Far away", "We had been",
    "The church", "He laughed", "The snow", "Her mother", "At last",
)  # fmt: skip
NEW = 14
COMMA, STOP = ",", "."


def groups(beams: int, groups: int, penalty: float, **more: Any) -> dict[str, Any]:
    return {"num_beams": beams, "num_beam_groups": groups, "diversity_penalty": penalty, **more}


SETS: dict[str, list[dict[str, Any]]] = {
    "beams": [
        {"num_beams": 2},
        {"num_beams": 3, "n": 3},
        {"num_beams": 4, "n": 2, "repetition_penalty": 1.3},
        {"num_beams": 4, "no_repeat_ngram_size": 2},
        {"num_beams": 5, "n": 5, "length_penalty": 2.0, "stops": 1},
        {"num_beams": 6, "n": 2, "length_penalty": -1.0, "stops": 1},
        {"num_beams": 3, "n": 3, "early_stopping": True, "stops": 1},
        {"num_beams": 3, "n": 3, "early_stopping": "never", "stops": 1},
        {"num_beams": 4, "n": 4, "early_stopping": True, "length_penalty": 0.0, "stops": 2},
        {"num_beams": 4, "n": 4, "early_stopping": "never", "length_penalty": 0.5, "stops": 2},
        {"num_beams": 4, "n": 4, "min_new_tokens": 6, "stops": 1},
        {"num_beams": 5, "n": 2, "stops": 2, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    ],
    "guidance": [
        {"guidance_scale": 1.5},
        {"guidance_scale": 3.0, "negative": 1},
        {"guidance_scale": 0.5, "negative": 1, "no_repeat_ngram_size": 2},
        {"guidance_scale": 2.0, "repetition_penalty": 1.2, "stops": 1},
        {"guidance_scale": -0.5, "negative": 1, "min_new_tokens": 5, "stops": 1},
    ],
    "diverse": [
        groups(4, 2, 0.5, n=4),
        groups(6, 3, 1.0, n=3, stops=1),
        groups(4, 4, 2.0, n=4),
        groups(4, 2, 1.0, repetition_penalty=1.3, stops=1),
        groups(6, 2, 0.3, early_stopping=True, n=6, stops=1),
        groups(4, 2, 0.7, length_penalty=2.0, n=2, stops=1, no_repeat_ngram_size=2),
        groups(6, 3, 0.5, early_stopping="never", n=6, stops=1, length_penalty=0.5),
    ],
    "constrained": [
        {"num_beams": 3, "words": 1},
        {"num_beams": 4, "words": 2, "n": 2},
        {"num_beams": 5, "words": 1, "either": 1, "n": 2},
        {"num_beams": 4, "either": 2, "stops": 1},
        {"num_beams": 6, "words": 2, "repetition_penalty": 1.2, "n": 3},
        {"num_beams": 4, "words": 1, "length_penalty": 2.0, "early_stopping": True, "stops": 1, "n": 4},
        {"num_beams": 3, "words": 1, "early_stopping": "never", "stops": 1, "no_repeat_ngram_size": 2},
    ],
    "contrastive": [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"penalty_alpha": 0.3, "top_k": 6, "repetition_penalty": 1.2},
        {"penalty_alpha": 0.8, "top_k": 3, "no_repeat_ngram_size": 2},
        {"penalty_alpha": 0.6, "top_k": 5, "stops": 1, "min_new_tokens": 4},
    ],
    "dola": [
        {"dola_layers": "low", "repetition_penalty": 1.2},
        {"dola_layers": "high", "repetition_penalty": 1.2},
        {"dola_layers": [1, 3]},
        {"dola_layers": [0, 2, 4], "no_repeat_ngram_size": 3},
        {"dola_layers": "high", "stops": 1, "min_new_tokens": 3},
    ],
}  # fmt: skip
"""By strategy, sets of options. Ours are written by our names; of the cases' own words, stops: how many
tokens end the text; negative: a negative prompt; words, either: how many phrases or disjunctions must
occur."""

RELEASE = {4: ("diverse", "constrained", "contrastive", "dola"), 5: ("beams", "guidance")}


class Maker:
    def __init__(self) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(ASSETS)
        self.model = transformers.GPT2LMHeadModel.from_pretrained(ASSETS).float().eval()
        self.double = copy.deepcopy(self.model).double()
        # One end-of-text token would be enough for the old beam scorer, which writes the first one for all.
        self.stops = [self.ids(text)[0] for text in (COMMA, STOP)]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids)

    def case(self, strategy: str, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
        """Our options of one case, with token ids instead of its own words."""
        ours = {k: v for k, v in options.items() if k not in ("stops", "negative", "words", "either")}
        ours |= {"max_new_tokens": NEW, "ignore_eos": True}
        if "stops" in options:
            ours["stop_token_ids"] = self.stops[: options["stops"]]
        if "negative" in options:
            ours["negative_prompt_ids"] = self.ids("A very sad story of " + prompt.lower())
        if strategy == "constrained":
            words: list[Any] = [self.ids(" sea"), self.ids(" beautiful morning")][: options.get("words", 0)]
            forms = [[" ship", " boats"], [" smiled", " laughing"]][: options.get("either", 0)]
            ours["force_words_ids"] = words + [[self.ids(form) for form in word] for word in forms]
        if strategy in ("guidance", "contrastive", "dola"):
            ours["do_sample"] = False
        return ours

    def generate(self, model: Any, prompt: list[int], ours: dict[str, Any]) -> tuple[list[list[int]], Any]:
        theirs = {k: v for k, v in ours.items() if k not in ("ignore_eos", "stop_token_ids", "n")}
        stops = ours.get("stop_token_ids", [])
        ids = torch.tensor([prompt])
        if "negative_prompt_ids" in theirs:
            theirs["negative_prompt_ids"] = torch.tensor([theirs["negative_prompt_ids"]])

        def call(output_scores: bool) -> Any:
            # An id that the model hardly ever produces, for none: with None it would take that of its config.
            return model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=stops[0] if stops else 0,
                eos_token_id=stops or [self.model.config.vocab_size - 1],
                num_return_sequences=ours.get("n", 1),
                return_dict_in_generate=True,
                output_scores=output_scores,
                **{"do_sample": False, **theirs},
            )

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                out = call(output_scores=model is self.model)  # the old scorers cannot do it in float64
            except RuntimeError:  # nor where constrained beams end without their words
                out = call(output_scores=False)
        rows = [self.trimmed(row[len(prompt) :].tolist(), stops) for row in out.sequences]
        scores = getattr(out, "sequences_scores", None)
        return rows, None if scores is None else [round(float(score), 6) for score in scores]

    @staticmethod
    def trimmed(row: list[int], stops: list[int]) -> list[int]:
        """Without the padding after the token that ended it."""
        for at, token in enumerate(row):
            if token in stops:
                return row[: at + 1]
        return row[:NEW]


def main() -> None:
    """Strategies that are named are made again, the others are kept."""
    major = int(transformers.__version__.split(".")[0])
    path = Path(__file__).with_name(f"strategies_{major}.json")
    wanted = sys.argv[1:] or list(RELEASE[major])
    torch.set_num_threads(1)  # for a model as small as this, a second thread only waits
    transformers.logging.set_verbosity_error()
    maker, records = Maker(), []
    near = dict.fromkeys(wanted, 0)
    for strategy in wanted:
        sets = SETS[strategy]
        for at, opening in enumerate(OPENINGS):
            ours, prompt = maker.case(strategy, opening, sets[at % len(sets)]), maker.ids(opening)
            tokens, scores = maker.generate(maker.model, prompt, ours)
            if maker.generate(maker.double, prompt, ours)[0] != tokens:
                near[strategy] += 1
                continue
            record = {"strategy": strategy, "prompt": prompt, "options": ours, "tokens": tokens}
            records.append(record | ({"scores": scores} if scores is not None else {}))
        print(strategy, "near ties:", near[strategy], file=sys.stderr)
    old = json.loads(path.read_text()) if path.exists() else {"records": [], "near_ties": {}}
    records += [record for record in old["records"] if record["strategy"] not in wanted]
    made = {"transformers": transformers.__version__, "torch": torch.__version__}
    made["near_ties"] = {**old["near_ties"], **near}
    lines = ",\n ".join(json.dumps(record) for record in records)
    path.write_text(json.dumps(made)[:-1] + f', "records": [\n {lines}\n]}}\n')


if __name__ == "__main__":
    main()
