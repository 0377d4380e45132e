"""The card that travels with a model directory: what it was made from, how, and what was measured.

    new_directory(path)          write a model directory whole or not at all
    compare(source, model)       measure one model against the one that it was made from
    write_card, read_card        card.json
    quantise_directory(...)      a quantised copy of a model, with its card

No file leaves a transform without its measurements. Knows the engine; knows no command line.
"""

from gpt2.cards.card import CARD, read_card, write_card
from gpt2.cards.directory import new_directory
from gpt2.cards.measure import Agreement, agreement, compare, sample_ids
from gpt2.cards.quantised import Quantised, quantise_directory
from gpt2.cards.tuned import write_model

__all__ = [
    "CARD",
    "Agreement",
    "Quantised",
    "agreement",
    "compare",
    "new_directory",
    "quantise_directory",
    "read_card",
    "sample_ids",
    "write_card",
    "write_model",
]
